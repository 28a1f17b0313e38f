"""Code for some GPUs alone in a CUDA library, which then compresses to a fraction.

Its machine code is in fat binaries: a header (magic, version, its size, the size of what follows),
then images, each with a header (kind, sizes, compute capability) of its own. The others' code
becomes zeros, so that sizes and offsets stay, and the library loads as before.
"""

import struct
from collections import Counter
from collections.abc import Collection, Iterator

_MAGIC = b"\x50\xed\x55\xba"
_HEADER, _IMAGE_HEADER = struct.Struct("<4sHHQ"), struct.Struct("<H2xIQ12xI")
_VERSION, _MACHINE_CODE = 1, 2


def prune(library: bytearray, keep: Collection[int]) -> Counter[int]:
    """Zero the code in `library`, in place, except machine code for the compute capabilities in
    `keep` (90 for 9.0); returns the bytes that were zeroed, by capability."""
    gone: Counter[int] = Counter()
    for kind, capability, begin, end in _images(library):
        if kind != _MACHINE_CODE or capability not in keep:
            library[begin:end] = bytes(end - begin)
            gone[capability] += end - begin
    return gone


def _images(library: bytearray) -> Iterator[tuple[int, int, int, int]]:
    """Kind, compute capability, begin and end of each image of code."""
    at = library.find(_MAGIC)
    while at >= 0:
        _, version, header, size = _HEADER.unpack_from(library, at)
        begin, end = at + header, at + header + size
        if version != _VERSION or header != _HEADER.size or end > len(library):
            begin = end = at + len(_MAGIC)  # these bytes by chance
        while begin < end - _IMAGE_HEADER.size:
            kind, image_header, content, capability = _IMAGE_HEADER.unpack_from(library, begin)
            yield kind, capability, begin + image_header, begin + image_header + content
            begin += image_header + content
        at = library.find(_MAGIC, end)
