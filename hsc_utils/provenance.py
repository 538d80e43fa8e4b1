"""The record of what made the results of a step, and whose data they are."""

import ast
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import pandas as pd

from hsc_utils.files import ROOT, file_sha256, from_root, shown_path, write_json

SIMULATED_NOTE = "Simulated demo data, not the paper's"

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)
_RECORDED_PACKAGES = (
    *("numpy", "pandas", "scikit-image", "scikit-learn", "opencv-python-headless"),
    *("torch", "torchvision", "lightning", "captum"),
    *("oirfile", "tifffile", "imagecodecs", "papermill"),
)


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


def code_digest(*modules: str) -> str:
    """Hash what modules of this package do: their code without comments and docstrings.

    Parameters
    ----------
    *modules : str
        Names within the package, such as ``training.fit``.

    Returns
    -------
    str
        64 hexadecimal digits; equal for code that differs in comments, docstrings or layout.
    """
    found = hashlib.sha256()
    for module in modules:
        tree = ast.parse((ROOT / "hsc_utils" / f"{module.replace('.', '/')}.py").read_text())
        for node in ast.walk(tree):
            if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
                del node.body[0]
        found.update(ast.unparse(tree).encode())
    return found.hexdigest()


def dataset_name(*folders: str | Path) -> str:
    """Return the name of the data set, as the first of these folders that was told it recorded."""
    for folder in map(from_root, folders):
        record = folder / "provenance.json"
        try:
            if record.exists() and (name := json.loads(record.read_text()).get("dataset")):
                return name
        except (ValueError, AttributeError):
            return f"unnamed, since {shown_path(record)} is damaged"
    return "unnamed data"


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
            "versions": {name: _version(name) for name in _RECORDED_PACKAGES},
            "seconds": round(seconds, 2),
            **record,
            "parameters": dict(parameters),
            "inputs": {shown_path(path): file_sha256(from_root(path)) for path in inputs},
        },
    )


def _version(package: str) -> str:
    """Return a package's version; a machine that only trains need not have them all."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


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
