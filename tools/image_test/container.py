"""Runs an image's own command as an orchestrator would, with util-linux only.

The command is process 1 of its own pid namespace (signals without a handler are ignored, as in any
container), its root is read-only except /tmp, its network is a separate loopback, it has no
capabilities and cannot gain new privileges.
"""

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

# Arguments: root, user, directory to mount at /mnt or nothing, then the arguments of `env`.
_ENTER = """
set -e
root=$1 user=$2 mounted=$3
shift 3
ip link set lo up
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero random urandom; do
    : > "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir -m 1777 "$root/dev/shm"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
if [ -n "$mounted" ]; then mount --bind "$mounted" "$root/mnt"; fi
mount -o remount,bind,ro "$root"
exec setpriv --no-new-privs --bounding-set=-all,+setuid,+setgid,+sys_chroot \
    chroot --userspec="$user" --groups= "$root" env -i "$@"
"""
_STOP_S = 30


class Container:
    """A running image; leaving the context kills its remaining processes.

    `user` is UID:GID; `mounted` appears at /mnt; output goes to `log`.
    """

    def __init__(
        self,
        rootfs: Path,
        config: dict[str, Any],
        log: Path,
        *,
        user: str | None = None,
        mounted: Path | None = None,
        env: dict[str, str] | None = None,
    ) -> None:
        self.user = user or config["User"]
        self._env = [*config["Env"], *(f"{name}={value}" for name, value in (env or {}).items())]
        command = [*(config["Entrypoint"] or []), *(config["Cmd"] or [])]
        directory = f"--chdir={config['WorkingDir'] or '/'}"
        self._log = log
        with log.open("wb") as output:
            self._outside = subprocess.Popen(
                [
                    *("unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork"),
                    *("sh", "-c", _ENTER, "enter", str(rootfs), self.user, str(mounted or "")),
                    *(directory, *self._env, *command),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._outside.poll() is None:
            if self.pid is not None:
                os.kill(self.pid, signal.SIGKILL)
            self._outside.kill()
            self._outside.wait()

    @property
    def pid(self) -> int | None:
        """Process 1, as seen from outside; None before it is forked and after its end."""
        parent = self._outside.pid
        with suppress(FileNotFoundError):
            for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
                return int(child)
        return None

    @property
    def running(self) -> bool:
        return self._outside.poll() is None

    @property
    def last_output(self) -> str:
        """The end of the command's output so far."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-12:])

    def run(self, *command: str, given: str = "") -> subprocess.CompletedProcess[str]:
        """Runs a command inside, as the same user with the same environment."""
        uid, _, gid = self.user.partition(":")
        return subprocess.run(
            [
                *("nsenter", f"--target={self.pid}", "--mount", "--pid", "--net", "--ipc", "--uts"),
                *("--root", "--wd", f"--setuid={uid}", f"--setgid={gid}"),
                *("env", "-i", *self._env, *command),
            ],
            input=given,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def stop(self) -> tuple[int | None, float]:
        """SIGTERM to process 1: its exit code (None: it kept running) and the seconds taken."""
        if self.pid is None:
            return self._outside.wait(), 0.0
        began = time.monotonic()
        os.kill(self.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._outside.wait(_STOP_S)
        return self._outside.poll(), time.monotonic() - began
