"""Image files and square patches cut from them: pixels only, no tables."""

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


def from_root(path: str | Path) -> Path:
    """Anchor a relative path at the repository root; absolute paths pass unchanged.

    nbval runs a notebook in its own folder and papermill in the caller's, so a path
    relative to the working directory would mean two things.
    """
    return ROOT / Path(path).expanduser()


def from_caller(path: str | Path) -> str:
    """Anchor a path of the command line at the caller's folder; see `from_root` for the result."""
    absolute = Path(os.path.abspath(Path(path).expanduser()))  # noqa: PTH100 - takes .. out
    return str(absolute.relative_to(ROOT) if absolute.is_relative_to(ROOT) else absolute)


def shown_path(path: str | Path) -> str:
    """Name a path for a reader: relative to the repository where it lies inside.

    Outside, only the last two parts are shown, so that stored outputs never hold the
    folders of the machine they were made on. Bytes that are no UTF-8 are shown as such.
    """
    absolute = from_root(path)
    inside = absolute.is_relative_to(ROOT)
    shown = absolute.relative_to(ROOT) if inside else Path("…", *absolute.parts[-2:])
    return os.fsencode(shown.as_posix()).decode(errors="backslashreplace")


def no_bar() -> bool | None:
    """Answer tqdm's ``disable``: True in batch (``TQDM_DISABLE`` is set), otherwise its own choice.

    A bar left in a stored notebook would be a picture of nothing. tqdm reads that variable
    itself in a terminal, but not in a notebook.
    """
    return True if os.environ.get("TQDM_DISABLE") else None


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that becomes `path` only on success.

    An interrupted write, or a power loss, leaves `path` as it was. The temporary name is
    fixed, so the next attempt overwrites what a killed one left.

    Raises
    ------
    OSError
        If the disk is full or the folder cannot be written, saying what to do.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.part")
    with full_disk_explained(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with temporary.open("rb") as stream:  # or a power loss leaves an empty file behind
                os.fsync(stream.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def full_disk_explained(folder: str | Path) -> Iterator[None]:
    """Turn the operating system's words about a folder into what they mean and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            text = (
                f"The disk of {shown_path(folder)} is full. What is done is kept and nothing is "
                "torn: make room and run this again"
            )
        elif error.errno in _FORBIDDEN and str(error.filename).startswith(str(folder)):
            text = (
                f"{shown_path(folder)} cannot be written ({os.strerror(error.errno)}): change its "
                "rights, or choose another folder"
            )
        else:
            raise
        raise OSError(error.errno, text) from None


def reserved_array(path: str | Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Open a new memory-mapped ``.npy`` file of uint8 whose place on the disk is reserved.

    Without that, a full disk ends the process at the first write, without a message.

    Raises
    ------
    OSError
        If the disk has no room for it.
    """
    array = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with Path(path).open("r+b") as stream:
            os.posix_fallocate(stream.fileno(), 0, Path(path).stat().st_size)
    return array


def write_json(path: str | Path, content: Mapping) -> None:
    """Write a mapping as indented JSON, atomically, keys in the order given."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, default=str) + "\n")


def write_csv(path: str | Path, table: "pd.DataFrame") -> None:
    """Write a table as CSV without its index, atomically."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False)


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def file_state(path: str | Path) -> list[int] | None:
    """Tell a file's state from another unread, by size and time; None where there is no file."""
    with suppress(OSError):
        state = Path(path).stat()
        return [state.st_size, state.st_mtime_ns]
    return None


def read_rgb(path: str | Path) -> NDArray[np.uint8]:
    """Read an image file as RGB, uint8 of shape (Y, X, 3)."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise ValueError(
            f"{shown_path(path)} cannot be read as an image. Delete it and make it again, or copy "
            "it again."
        )
    return image


def write_rgb(path: str | Path, rgb: NDArray[np.uint8]) -> None:
    """Write an RGB image, uint8 of shape (Y, X, 3), as PNG, atomically."""
    _, encoded = cv2.imencode(".png", cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2BGR))
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded.tobytes())


def set_aside(path: Path, reason: str) -> None:
    """Rename a damaged file to ``<name>.damaged``, so that it can be made again, and say why."""
    aside = path.with_name(f"{path.name}.damaged")
    path.replace(aside)
    print(f"{reason} It is set aside as {aside.name}.", flush=True)
