"""Where results go, how they are written, and the record of what made them.

Every step anchors its paths at the repository root with `from_root`, writes with
`atomic_path` (a temporary name, then a rename), and closes with `write_provenance`.
"""

import errno
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import Markdown
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]

SIMULATED_NOTE = "Simulated demo data, not the paper's"

_RECORDED_PACKAGES = (
    *("numpy", "pandas", "scikit-image", "scikit-learn", "opencv-python-headless"),
    *("torch", "torchvision", "lightning", "captum"),
    *("oirfile", "tifffile", "imagecodecs", "papermill"),
)


def from_root(path: str | Path) -> Path:
    """Anchor a relative path at the repository root; absolute paths pass unchanged.

    nbval runs a notebook in its own folder and papermill in the caller's, so a path
    relative to the working directory would mean two things.
    """
    return ROOT / Path(path).expanduser()


def shown_path(path: str | Path) -> str:
    """Name a path for a reader: relative to the repository where it lies inside.

    Outside, only the last two parts are shown, so that stored outputs never hold the
    folders of the machine they were made on.
    """
    absolute = from_root(path)
    if absolute.is_relative_to(ROOT):
        return absolute.relative_to(ROOT).as_posix()
    return Path("…", *absolute.parts[-2:]).as_posix()


def no_bar() -> bool | None:
    """Answer tqdm's ``disable``: True in batch (``TQDM_DISABLE`` is set), otherwise its own choice.

    A bar left in a stored notebook would be a picture of nothing. tqdm reads that variable
    itself in a terminal, but not in a notebook.
    """
    return True if os.environ.get("TQDM_DISABLE") else None


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that becomes `path` only on success.

    An interrupted write leaves `path` as it was. The temporary name is fixed, so the
    next attempt overwrites what a killed one left.

    Raises
    ------
    OSError
        If the disk is full, with a message that says what to do.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.part")
    with full_disk_explained(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def full_disk_explained(folder: str | Path) -> Iterator[None]:
    """Turn the operating system's "No space left" into what it means and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(
            error.errno,
            f"The disk of {shown_path(folder)} is full. What is done is kept and nothing is "
            "torn: make room and run this again",
        ) from None


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


def write_csv(path: str | Path, table: pd.DataFrame) -> None:
    """Write a table as CSV without its index, atomically."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False)


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def run_directory(
    runs_dir: str | Path, architecture: str, seed: int, channels: Sequence[int] = (0, 1, 2)
) -> Path:
    """Name the directory of one training run.

    Parameters
    ----------
    runs_dir : path
        Directory of all runs of one level, such as ``results/demo/runs/cell``.
    architecture : str
        Backbone, such as ``densenet169``.
    seed : int
        Seed of the run.
    channels : sequence of int
        RGB channels (slices) the model sees. All three give ``<architecture>``; fewer
        give ``<architecture>-slice0`` or ``<architecture>-slice0+2``.

    Returns
    -------
    Path
        ``<runs_dir>/<architecture>[-slice…]/seed<k>``, anchored at the repository root.
    """
    name = architecture
    if list(channels) != [0, 1, 2]:
        name += "-slice" + "+".join(str(channel) for channel in channels)
    return from_root(runs_dir) / name / f"seed{seed}"


def git_commit() -> str:
    """Return the commit of the repository, marked ``-dirty`` if changed, or ``unknown``."""
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def write_provenance(
    directory: str | Path,
    *,
    parameters: Mapping,
    inputs: Sequence[str | Path] = (),
    seconds: float,
    **record: object,
) -> None:
    """Write ``provenance.json``: what made the files of a directory.

    Parameters
    ----------
    directory : path
        Where the results lie.
    parameters : mapping
        The settings of the step, as used.
    inputs : sequence of path
        Files the step read; each is recorded with its SHA-256.
    seconds : float
        Wall-clock time of the step.
    **record
        Whatever else the step must answer for: ``seed``, ``device``, ``weights`` (those
        actually used), ``simulated``, ``fallbacks``.
    """
    write_json(
        Path(directory) / "provenance.json",
        {
            "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "git_commit": git_commit(),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cpu_count": os.cpu_count(),
            "versions": {name: metadata.version(name) for name in _RECORDED_PACKAGES},
            "seconds": round(seconds, 2),
            **record,
            "parameters": dict(parameters),
            "inputs": {shown_path(path): file_sha256(from_root(path)) for path in inputs},
        },
    )


def data_note(table: pd.DataFrame) -> str:
    """Say in a few words whose data a table holds, for the foot of every figure.

    Parameters
    ----------
    table : DataFrame
        ``images.csv`` or ``cells.csv``; its boolean column ``simulated`` is read.

    Returns
    -------
    str
        `SIMULATED_NOTE` where any row is simulated, otherwise an empty string.
    """
    return SIMULATED_NOTE if table["simulated"].any() else ""


def header(
    *, dataset: str, simulated: bool, device: str = "none", weights: str = "none"
) -> Markdown:
    """Return the line that opens every notebook's results, with the banner where it is due.

    Parameters
    ----------
    dataset : str
        Name of the data set a reader would recognise.
    simulated : bool
        Whether any of the data came from the simulator.
    device : str
        Where models run; ``none`` where the step uses no model.
    weights : str
        The weights that training started from, as actually used.

    Returns
    -------
    Markdown
        For display as the value of a cell.
    """
    line = f"**Data** {dataset} · **device** {device} · **starting weights** {weights}"
    if simulated:
        line = (
            f"> ⚠️ **{SIMULATED_NOTE}.** Every number and picture below shows that the code "
            f"works, and says nothing about blood stem cells.\n\n{line}"
        )
    return Markdown(line)


def written_files(*paths: str | Path) -> pd.DataFrame:
    """List files a step wrote, with their sizes; a folder is one row that counts its files.

    Parameters
    ----------
    *paths : path
        Files or folders, relative ones anchored at the repository root.

    Returns
    -------
    DataFrame
        Columns ``file``, ``files`` and ``megabytes``.

    Raises
    ------
    FileNotFoundError
        If one of them does not exist.
    """
    rows = []
    for path in map(from_root, paths):
        if not path.exists():
            raise FileNotFoundError(
                f"{shown_path(path)} was expected to be written, but is missing."
            )
        members = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
        size = sum(member.stat().st_size for member in members)
        rows.append((shown_path(path), len(members), round(size / 1e6, 2)))
    return pd.DataFrame(rows, columns=["file", "files", "megabytes"])
