"""Claim: step 02 takes hours, not days, for the paper's images on two cores.

Run `python benchmarks/cells.py`; it writes ``benchmarks/results/cells.csv``: from RGB PNGs of
2048² to ``patches.npy``, medians of five runs, each in a fresh process with its peak memory.
"""

import resource
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from machine import write_results

from hsc_utils import detection, paper, preparation, simulation

SIDE = 2048
IMAGES = {"LT-HSC": 3, "ST-HSC": 3, "MPP": 3}
RUNS = 5
THRESHOLDS = {"log": 0.2, "dog": 0.2, "doh": 0.01}


def extract(prepared_dir: Path, cells_dir: Path, method: str) -> tuple[float, int, float]:
    """Return the seconds, the number of cells and the peak memory in GB of one extraction."""
    started = time.perf_counter()
    settings = detection.DetectionSettings(method=method, threshold=THRESHOLDS[method])
    cells = detection.extract_cells(prepared_dir, cells_dir, settings)
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
    paper_images = int(paper.counts()["images"].sum())
    return {
        "method": method,
        "images": count,
        "pixels": f"{SIDE}×{SIDE}",
        "cells": cells[0],
        "images_per_s": round(rate, 2),
        "paper_images": paper_images,
        "hours_for_the_paper": round(paper_images / rate / 3600, 2),
        "peak_memory_gb": round(max(memory), 2),
        "runs": RUNS,
    }


def main() -> None:
    """Write the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print("simulating", flush=True)
        simulation.write_demo(folder / "raw", folder / "truth", IMAGES, size=SIDE, days=1)
        preparation.prepare_images(folder / "raw", folder / "prepared")
        rows = [measure(folder, method) for method in THRESHOLDS]
    write_results("cells", rows, ("opencv-python-headless", "scikit-image"))


if __name__ == "__main__":
    main()
