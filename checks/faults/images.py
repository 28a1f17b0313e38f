"""Group 17: images that explode, lie or are odd; many at once; decoders that take their time."""

import itertools
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx

from checks.faults import pictures
from checks.faults.fault import Broken, Fault, answered, expect, refused, survived
from checks.faults.pictures import base64_of, picture
from checks.faults.target import OWN_IMAGE_BYTES, QUERY, REFUSAL_S, Stopwatch, Target
from checks.load import by_index
from checks.serving import PATIENCE_S

_IMAGES = "17 images"
# One score of the same pixels, in batches of other shapes.
_DRIFT = 2e-3
_HASTY = {200, 429, 503, 504}
_HEALTH_S = 1.0
_ORDINARY_S = 5.0
_MIB = 1 << 20
# What a file may take that is refused by its head, beside what is sent.
_HEAD_BYTES = 48 * _MIB
# A legal image near the limit of 50 megapixels, and the memory that decoding takes for a pixel.
_LARGE_SIDE, _LARGE_BYTES_A_PIXEL = 7000, 10
_DECODERS = 4
_SEEDS = itertools.count(1000)


def _body(*images: str, text: str | None = None) -> dict[str, Any]:
    beside = {} if text is None else {"text": text}
    return {"query": {"text": QUERY}, "passages": [{"image": image, **beside} for image in images]}


def _ask(target: Target, *images: str, **more: Any) -> httpx.Response:
    return target.post("/v1/ranking", _body(*images, **more))


def _logits(reply: httpx.Response) -> list[float]:
    answered(reply)
    return by_index(reply.json()["rankings"], "logit")


def _files(target: Target, *files: bytes) -> list[float]:
    return _logits(_ask(target, *map(base64_of, files)))


def _seen(run: Callable[[Target], None], target: Target) -> None:
    """Run the fault against a server of a model that takes images; afterwards an image must have
    the score that it had before."""
    sees = target.seeing(base64_of(picture()))
    before = _files(sees, picture())
    run(sees)
    after = _files(sees, picture())
    expect(abs(before[0] - after[0]) <= _DRIFT, f"scored {before[0]}, afterwards {after[0]}")


def _bounded(target: Target, most: int, ask: Callable[[], httpx.Response]) -> httpx.Response:
    """The answer; its memory must not exceed `most` bytes beside what it was, health in time."""
    before = 0
    if target.own:
        before = target.own.resident_bytes()
        target.own.forget_peak()
    watch = Stopwatch(target)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask)
        longest_s = watch.longest(lambda: target.http.get("/v1/health/live"), [asked])
    if target.own:
        grown = target.own.peak_bytes() - before
        expect(grown <= most, f"took {grown >> 20} MiB, wanted at most {most >> 20}")
    watch.expect(_HEALTH_S, "health", longest_s)
    return asked.result()


def _refuses(make: pictures.Make, target: Target) -> None:
    """The second of three passages is refused, and named."""
    good, bad = base64_of(picture()), base64_of(make())
    watch = Stopwatch(target)
    most = _HEAD_BYTES + 4 * len(bad)
    reply = _bounded(target, most, lambda: _ask(target, good, bad, good))
    refused(reply)
    watch.expect(REFUSAL_S, "the refusal")
    told = reply.text
    named = "passages[1].image" in told or json.loads(told).get("detail", [{}])[0].get("loc") == [
        *("body", "passages", 1, "image")
    ]
    expect(named, f"does not name it: {told[:150]}")


def _survives(make: pictures.Make, target: Target) -> None:
    bad = base64_of(make())
    survived(_bounded(target, _HEAD_BYTES + 4 * len(bad), lambda: _ask(target, bad)))


def _same_pixels(target: Target) -> None:
    wrong = []
    for name, odd, plain in pictures.plain_and_odd():
        found, wanted = _files(target, odd, plain)
        if abs(found - wanted) > _DRIFT:
            wrong.append(f"{name} scores {found}, its pixels {wanted}")
    expect(not wrong, "; ".join(wrong))


def _encodings(target: Target) -> None:
    file = pictures.of_every_character()
    for name, image in pictures.wrongly_encoded(file).items():
        try:
            refused(_ask(target, base64_of(file), image))
        except Broken as error:
            raise Broken(f"{name}: {error}") from error
    (wanted,) = _files(target, file)
    for name, image in pictures.rightly_encoded(file).items():
        (found,) = _logits(_ask(target, image))
        expect(abs(found - wanted) <= _DRIFT, f"{name}: scored {found}, wanted {wanted}")


def _every_dialect(target: Target) -> None:
    """A broken image is refused in each, a whole one is taken by those that know images."""
    whole, broken = base64_of(picture()), base64_of(b"no image")

    def bodies(image: str) -> dict[str, dict[str, Any]]:
        part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}}
        return {
            "/v1/ranking": _body(image),
            "/rerank": {"query": QUERY, "documents": [{"image": image}]},
            "/v1/rerank": {"model": "any", "query": QUERY, "documents": [{"content": [part]}]},
        }

    for path, body in bodies(whole).items():
        found = target.post(path, body).status_code
        if found != 404:  # another server's, without this route
            expect(found == 200, f"{path} answers {found} to an image, wanted 200")
            refused(target.post(path, bodies(broken)[path]))


def _too_large_a_file(target: Target) -> None:
    target.inspected()
    noise = bytes(range(256)) * (OWN_IMAGE_BYTES // 256)
    refused(_bounded(target, 16 * len(noise), lambda: _ask(target, base64_of(picture() + noise))))


def _many_in_one(target: Target) -> None:
    """64 images have the scores that they have alone."""
    files = [picture(seed) for seed in range(64)]
    alone = [_files(target, file)[0] for file in files[:8]]
    fresh = [picture(next(_SEEDS)) for _ in range(56)]
    together = _files(target, *files[:8], *fresh)
    worst = max(abs(a - b) for a, b in zip(alone, together, strict=False))
    expect(len(together) == 64, f"{len(together)} scores for 64 images")
    expect(worst <= _DRIFT, f"an image among others is {worst} from itself alone")


def _many_at_once(target: Target) -> None:
    """64 requests with an image each: the same image has one score, and none is lost."""
    files = [picture(next(_SEEDS)) for _ in range(16)] * 4
    with ThreadPoolExecutor(64) as pool:
        found = list(pool.map(lambda file: _files(target, file)[0], files))
    for first, score in zip(itertools.cycle(found[:16]), found, strict=False):
        expect(abs(first - score) <= _DRIFT, f"one image scores {first} and {score}")


def _too_many_tiles(target: Target) -> None:
    images = [base64_of(picture(seed, 300, 310)) for seed in range(100)]
    refused(_ask(target, *images))


def _more_than_is_held(target: Target) -> None:
    """Requests beyond the tiles of all are told to come again; each has an answer."""
    groups = [[base64_of(picture(next(_SEEDS), 300, 310)) for _ in range(40)] for _ in range(12)]
    with ThreadPoolExecutor(len(groups)) as pool:
        replies = list(pool.map(lambda images: _ask(target, *images), groups))
    found = {reply.status_code for reply in replies}
    expect(found <= _HASTY, f"found statuses {sorted(found)}")
    expect(200 in found, "no request was answered")
    for reply in replies:
        if reply.status_code in (429, 503):
            expect(int(reply.headers.get("retry-after", "0")) >= 1, "no Retry-After")


def _a_large_one(target: Target) -> None:
    """Black, of 49 megapixels in some 50 KB: legal, so it has the score of a black one."""
    most = _LARGE_BYTES_A_PIXEL * _LARGE_SIDE**2 + _HEAD_BYTES
    large, small = base64_of(pictures.black(_LARGE_SIDE)), base64_of(pictures.black(300))
    (found,) = _logits(_bounded(target, most, lambda: _ask(target, large)))
    (wanted,) = _logits(_ask(target, small))
    expect(abs(found - wanted) <= _DRIFT, f"scored {found}, wanted {wanted}")


def _slow_decoder(target: Target) -> None:
    """While many large images are decoded, health and texts are answered."""
    files = [base64_of(pictures.large(seed, _LARGE_SIDE)) for seed in range(8)]
    before = 0
    if target.own:
        before = target.own.resident_bytes()
        target.own.forget_peak()
    watch = Stopwatch(target)
    with ThreadPoolExecutor(len(files) + 1) as pool:
        # The server ends those that take too long, not the client.
        ask = partial(target.post, "/v1/ranking", timeout=PATIENCE_S)
        asked = [pool.submit(ask, _body(file)) for file in files]
        text_s = pool.submit(watch.longest, lambda: answered(target.rank()), asked)
        health_s = watch.longest(lambda: target.http.get("/v1/health/live"), asked)
        slowest_text_s = text_s.result()
    found = {one.result().status_code for one in asked}
    expect(found <= _HASTY, f"found statuses {sorted(found)}")
    expect(200 in found, "no large image was answered")
    if target.own:
        most = _DECODERS * _LARGE_BYTES_A_PIXEL * _LARGE_SIDE**2 + 4 * sum(map(len, files))
        grown = target.own.peak_bytes() - before
        expect(grown <= most + _HEAD_BYTES, f"took {grown >> 20} MiB, at most {most >> 20}")
    watch.expect(_HEALTH_S, "health beside large images", health_s)
    watch.expect(_ORDINARY_S, "a text beside large images", slowest_text_s)


def _vanishing(target: Target) -> None:
    """Clients that leave while their images are decoded cost nobody else anything."""
    files = [base64_of(pictures.large(seed, _LARGE_SIDE)) for seed in range(20, 24)]
    for file in files:
        try:
            target.post("/v1/ranking", _body(file), timeout=0.1)
        except httpx.TimeoutException:
            continue
    watch = Stopwatch(target)
    answered(_ask(target, base64_of(picture(next(_SEEDS)))))
    watch.expect(_ORDINARY_S, "an image after vanished ones")


def _fault(name: str, run: Callable[[Target], None]) -> Fault:
    return Fault(_IMAGES, name, partial(_seen, run))


FAULTS: tuple[Fault, ...] = (
    *(_fault(name, partial(_refuses, make)) for name, make in pictures.REFUSED.items()),
    *(_fault(name, partial(_survives, make)) for name, make in pictures.ODD.items()),
    _fault("animations, palettes, 16 bits, CMYK, transparency", _same_pixels),
    _fault("base64 of the wrong alphabet", _encodings),
    _fault("a broken image in every dialect", _every_dialect),
    _fault("a file of more bytes than allowed", _too_large_a_file),
    _fault("a whole PNG of 7000 × 7000 in 50 KB", _a_large_one),
    _fault("64 images in one request", _many_in_one),
    _fault("64 requests with an image at once", _many_at_once),
    _fault("more tiles than a request may have", _too_many_tiles),
    _fault("more tiles than all requests may have", _more_than_is_held),
    _fault("a slow decoder", _slow_decoder),
    _fault("clients that leave a decoder", _vanishing),
)
