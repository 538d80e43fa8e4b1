"""Claim: step 02 takes hours, not days, for the paper's images on two cores.

Run `python benchmarks/cells.py`; it writes ``benchmarks/results/cells.csv``: from RGB PNGs of
2048² to ``patches.npy``, medians of five runs, each in a fresh process with its peak memory.
"""

import os
import platform
import resource
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import pandas as pd

from hsc_utils.detection.blobs import DetectionSettings
from hsc_utils.detection.cells import extract_cells
from hsc_utils.files import ROOT, write_csv
from hsc_utils.paper import counts
from hsc_utils.preparation.prepare import prepare_images
from hsc_utils.simulation import simulate

SIDE = 2048
IMAGES = {"LT-HSC": 3, "ST-HSC": 3, "MPP": 3}
RUNS = 5
THRESHOLDS = {"log": 0.2, "dog": 0.2, "doh": 0.01}


def extract(prepared_dir: Path, cells_dir: Path, method: str) -> tuple[float, int, float]:
    """Return the seconds, the number of cells and the peak memory in GB of one extraction."""
    started = time.perf_counter()
    settings = DetectionSettings(method=method, threshold=THRESHOLDS[method])
    cells = extract_cells(prepared_dir, cells_dir, settings)
    seconds = time.perf_counter() - started
    return seconds, len(cells), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(folder: Path, method: str) -> dict:
    """Extract the cells of all images several times, with one method."""
    results = []
    for run in range(RUNS):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
            job = fresh.submit(extract, folder / "prepared", folder / f"{method}{run}", method)
            results.append(job.result())
        print(method, *(f"{value:.2f}" for value in results[-1]), flush=True)
    seconds, cells, memory = zip(*results, strict=True)
    count = sum(IMAGES.values())
    rate = count / statistics.median(seconds)
    paper = int(counts()["images"].sum())
    return {
        "method": method, "images": count, "pixels": f"{SIDE}×{SIDE}", "cells": cells[0],
        "images_per_s": round(rate, 2), "paper_images": paper,
        "hours_for_the_paper": round(paper / rate / 3600, 2),
        "peak_memory_gb": round(max(memory), 2),
    }  # fmt: skip


def main() -> None:
    """Write the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print("simulating", flush=True)
        simulate.write_demo(folder / "raw", folder / "truth", IMAGES, size=SIDE, days=1)
        prepare_images(folder / "raw", folder / "prepared")
        rows = [measure(folder, method) for method in THRESHOLDS]
    table = pd.DataFrame(rows).assign(
        runs=RUNS, cores=len(os.sched_getaffinity(0)), machine=platform.machine(),
        opencv=version("opencv-python-headless"), scikit_image=version("scikit-image"),
    )  # fmt: skip
    write_csv(ROOT / "benchmarks/results/cells.csv", table)
    print(table.to_string())


if __name__ == "__main__":
    main()
