"""Training on several devices, each in a process of its own.

A notebook cannot be divided between devices. So `fit` writes a task down and runs this module on
it as a program, which Lightning starts once more for every further device.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from hsc_utils import loop
from hsc_utils.provenance import ROOT, write_json

_ERRORS = {"MemoryError": MemoryError, "ValueError": ValueError}


def fit(
    samples: pd.DataFrame,
    arrays: np.ndarray,
    directory: Path,
    config: dict,
    devices: int,
    tensorboard: bool,
) -> None:
    """Train like `loop.fit`; ``checkpoints/best.ckpt`` holds the result.

    Raises
    ------
    MemoryError, ValueError
        As `loop.fit` does.
    RuntimeError
        If a process ends in any other way, with the last thing that it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        task = Path(folder)
        samples.to_parquet(task / "samples.parquet")
        write_json(
            task / "task.json",
            {
                "arrays": str(_on_disk(arrays, task)),
                "directory": str(directory),
                "config": config,
                "devices": devices,
                "tensorboard": tensorboard,
            },
        )
        with (task / "errors.txt").open("w+") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "hsc_utils.several_devices", folder],
                **{"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": errors, "text": True},
                # a SLURM job of one task would forbid Lightning to start the others
                env={k: v for k, v in os.environ.items() if not k.startswith("SLURM_")},
            )
            for line in process.stdout:  # the kernel's own output is not the notebook's
                print(line, end="")
            if process.wait():
                _raise_last((task / "errors.txt").read_text())


def _on_disk(arrays: np.ndarray, folder: Path) -> Path:
    """Name the file of a memory-mapped array, or write any other array to one."""
    path = getattr(arrays, "filename", None)
    if path is None or np.load(path, mmap_mode="r").shape != arrays.shape:
        path = folder / "arrays.npy"
        np.save(path, arrays)
    return Path(path)


def _raise_last(messages: str) -> None:
    """Raise what a process died of, from what it left on stderr."""
    lines = [line.partition("]: ")[2] or line for line in messages.splitlines() if line.strip()]
    said = [line for line in lines if line.split(":")[0] in _ERRORS] or lines[-1:] or ["no message"]
    kind, _, text = said[-1].partition(": ")
    raise _ERRORS.get(kind, RuntimeError)(text or kind)


if __name__ == "__main__":
    task = json.loads(Path(sys.argv[1], "task.json").read_text())
    loop.fit(
        pd.read_parquet(Path(sys.argv[1], "samples.parquet")),
        np.load(task["arrays"], mmap_mode="r"),
        Path(task["directory"]),
        *(task[name] for name in ("config", "devices", "tensorboard")),
    )
