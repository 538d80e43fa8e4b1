"""What machine and which versions a figure was measured on: the last columns of every table."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from hsc_utils.files import ROOT, write_csv

# a machine that is lent for some minutes hands back one folder, which it names in OUT
RESULTS = Path(os.environ.get("OUT") or ROOT / "benchmarks/results")


def write_results(name: str, rows: list[dict], packages: tuple[str, ...]) -> None:
    """Print a table and write it as ``<name>.csv`` into `RESULTS`, with machine and versions."""
    table = pd.DataFrame(rows)
    print(table.to_string(index=False))
    versions = "; ".join(f"{package} {version(package)}" for package in packages)
    table = table.assign(cores=len(os.sched_getaffinity(0)), processor=_processor())
    write_csv(RESULTS / f"{name}.csv", table.assign(versions=versions))


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
