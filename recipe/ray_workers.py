"""Map over many processes and machines, with Ray: chunks in, results in the same order out."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from recipe.errors import StageFailed
from runtime.telemetry import disable_telemetry, import_without_telemetry

# Chunks queued at each worker while it computes, so that no worker is idle.
_AHEAD = 2


def map_in_order(
    make: Callable[..., Callable[[Any], Any]],
    arguments: tuple[Any, ...],
    chunks: Iterable[Any],
    workers: int,
    address: str | None,
) -> Iterator[Any]:
    """`make(*arguments)(chunk)` for every chunk, on `workers` processes that each call `make` once.

    One worker and no address: in this process, without Ray. `address` is a running cluster
    ("auto": the one of this machine); None starts one on this machine for the duration. Files named
    in `arguments` must have the same paths everywhere. Where the cluster has GPUs, every worker
    asks for one, or for a share of one when there are more workers than GPUs. At most two chunks
    per worker are in flight, whatever the length of `chunks`. In this process, the callable is
    closed at the end if it has `close`. Raises StageFailed when a worker is lost or fails.
    """
    if workers == 1 and address is None:
        work = make(*arguments)
        try:
            yield from (work(chunk) for chunk in chunks)
        finally:
            getattr(work, "close", lambda: None)()
        return
    ray = import_without_telemetry("ray")  # late: an optional extra

    ray.init(
        # Without "local", Ray joins a cluster that someone else started on this machine.
        address="local" if address is None else address,
        num_cpus=workers if address is None else None,
        include_dashboard=False if address is None else None,
        log_to_driver=False,
        configure_logging=False,
    )
    try:
        gpus = gpu_share(int(ray.cluster_resources().get("GPU", 0)), workers)
        remote: Any = ray.remote(num_cpus=1, num_gpus=gpus)(_Worker)
        hands = [remote.remote(make, arguments) for _ in range(workers)]
        under_way: deque[Any] = deque()
        for number, chunk in enumerate(chunks):
            if len(under_way) == workers * _AHEAD:
                yield ray.get(under_way.popleft())
            under_way.append(hands[number % workers].work.remote(chunk))
        while under_way:
            yield ray.get(under_way.popleft())
    except ray.exceptions.RayError as error:
        raise StageFailed(
            f"a Ray worker was lost or failed ({type(error).__name__}: "
            f"{str(error).splitlines()[-1]}); finished work is kept: run the same command to "
            "continue"
        ) from error
    finally:
        ray.shutdown()


def gpu_share(gpus: int, workers: int) -> float:
    """The part of a GPU for each worker, so that all find room: a worker's part is of one GPU."""
    return 1 / -(-workers // gpus) if gpus else 0.0


class _Worker:
    """The actor in each Ray process."""

    def __init__(
        self, make: Callable[..., Callable[[Any], Any]], arguments: tuple[Any, ...]
    ) -> None:
        # On other machines, Ray's processes have the environment that Ray was started with.
        disable_telemetry()
        self._work = make(*arguments)

    def work(self, chunk: Any) -> Any:
        """The result for one chunk."""
        return self._work(chunk)
