"""The files of a model directory: read only if they are regular, inside it and of limited size.

A directory may come from anywhere. A link in it could name every file of the machine, a FIFO blocks
its reader for ever, and a device does not end. So each file is opened here, or checked here before
a library opens it by its name.

Links are followed within the directory, and from a snapshot in the Hugging Face hub's cache into
the blobs of the same repository. That is how huggingface_hub keeps every file:
models--ORG--NAME/snapshots/COMMIT/FILE → models--ORG--NAME/blobs/HASH.

A refusal is an OSError whose `strerror` says what was found; an absent file is a
FileNotFoundError.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

# Manifests, reports and settings of tokenizers have a megabyte at most, tokenizers some tens.
JSON_BYTES = 16 << 20
TOKENIZER_BYTES = 128 << 20
# Protocol Buffers read no larger message.
GRAPH_BYTES = (2 << 30) - 1
# Weights and plans. A sparse file may claim to be larger than any disk.
LARGEST_BYTES = 256 << 30

# The beginning of the name of a repository in the hub's cache.
HUB_PREFIX = "models--"
_MOST_NAME_BYTES = 1024
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def real_directory(directory: Path) -> Path:
    """`directory` with all links resolved, so that a link replaced later has no effect."""
    with _user_id_told():
        found = Path(os.path.realpath(directory, strict=True))
        mode = found.stat().st_mode
    if not stat.S_ISDIR(mode):
        raise NotADirectoryError(errno.ENOTDIR, f"it is {_kind(mode)}, wanted a directory")
    return found


def is_there(directory: Path, name: str) -> bool:
    """Whether anything has this name, even a broken link."""
    try:
        (directory / name).lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # not known to be absent; reading it raises the reason
        return True
    return True


def name_fault(name: str) -> str | None:
    """Why `name` cannot be a path of a file in a directory, with slashes between folders; None if
    it can."""
    parts = name.split("/")
    if ".." in parts or name.startswith("/"):
        return "which is outside its directory"
    if "" in parts or "." in parts:
        return "wanted a plain relative path"
    if "\\" in name or not name.isprintable():
        return "wanted a name without backslashes and control characters"
    if len(name.encode()) > _MOST_NAME_BYTES:
        return f"wanted a name of at most {_MOST_NAME_BYTES} bytes"
    return None


def find_file(directory: Path, name: str) -> Path:
    """The real path of the regular file `name` of `directory`. Raises OSError."""
    if fault := name_fault(name):
        raise OSError(errno.EINVAL, f"found the name {name[:80]!r}, {fault}")
    path = directory / name
    home = Path(os.path.realpath(directory))
    try:
        with _user_id_told():
            found = Path(os.path.realpath(path, strict=True))
            mode = found.stat().st_mode
    except FileNotFoundError as error:
        if not path.is_symlink():
            raise
        message = f"it is a link to {os.readlink(path)!r}, which does not exist"
        raise OSError(errno.ELOOP, message) from error
    repository = hub_repository(home)
    blobs = None if repository is None else repository / "blobs"
    if not found.is_relative_to(home) and found.parent != blobs:
        wanted = "a file in it, or a link to the blobs of the same hub cache"
        if blobs is not None and blobs.is_symlink():
            # A downloaded directory may contain one, which could name any folder of the machine.
            wanted += (
                " (whose folder blobs is a link here, and is not followed: move the whole cache, "
                "and set HF_HUB_CACHE or link to that)"
            )
        raise OSError(
            errno.EXDEV,
            f"it leads to {str(found)!r}, outside its directory; wanted {wanted}",
        )
    _refuse_special(mode)
    return found


def open_file(path: Path, most_bytes: int = LARGEST_BYTES) -> BufferedReader:
    """Open the regular file `path`, of at most so many bytes, to be read. Raises OSError."""
    with _user_id_told():
        # Checked first: opening a device may already have an effect.
        _refuse_special(path.stat().st_mode)
        # A FIFO may have replaced the file since, and would block its reader.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(handle)
        _refuse_special(found.st_mode)
        if found.st_size > most_bytes:
            raise OSError(errno.EFBIG, f"it has {found.st_size} bytes, wanted {most_bytes} at most")
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_bounded(path: Path, most_bytes: int) -> bytes:
    """The content of the regular file `path`, of at most so many bytes. Raises OSError."""
    with open_file(path, most_bytes) as file:
        return file.read(most_bytes)


def read_file(directory: Path, name: str, most_bytes: int) -> bytes:
    """The content of the file `name` of `directory`. Raises OSError."""
    return read_bounded(find_file(directory, name), most_bytes)


class Identity(NamedTuple):
    """The identity of a file, which changes when it is replaced or written to."""

    device: int
    size: int
    mtime_ns: int
    number: int
    ctime_ns: int

    def is_of(self, other: "Identity") -> bool:
        """Whether both are the same file with the same content.

        Number or ctime alone may differ: over FUSE a file of an object store may have another
        number at every stat, and another hard link to a file gives it a new ctime. A file that was
        replaced by one of the same size and date differs in both; a ctime cannot be set.
        """
        return self[:3] == other[:3] and (
            self.number == other.number or self.ctime_ns == other.ctime_ns
        )


def identity(directory: Path, name: str) -> Identity | None:
    """The identity of the file; None if there is none."""
    try:
        found = (directory / name).stat()
    except OSError:
        return None
    return Identity(found.st_dev, found.st_size, found.st_mtime_ns, found.st_ino, found.st_ctime_ns)


def hub_repository(directory: Path) -> Path | None:
    """The repository in the hub's cache whose snapshot, or a folder of it, `directory` is; else
    None."""
    for snapshots in directory.absolute().parents:
        if snapshots.name == "snapshots" and snapshots.parent.name.startswith(HUB_PREFIX):
            return snapshots.parent
    return None


def _refuse_special(mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"it is {_kind(mode)}, wanted a regular file")


def _kind(mode: int) -> str:
    return _KINDS.get(stat.S_IFMT(mode), "a file")


@contextmanager
def _user_id_told() -> Iterator[None]:
    """Add the user id to the message of a missing permission."""
    try:
        yield
    except PermissionError as error:
        raise PermissionError(
            error.errno,
            f"{error.strerror}; make it readable for user id {os.getuid()}, as which this process "
            "runs",
        ) from None
