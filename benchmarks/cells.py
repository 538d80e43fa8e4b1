"""Claim: step 02 takes minutes, not days, for the paper's images on two cores.

Run `python benchmarks/cells.py`; it writes ``benchmarks/results/cells.csv``: from RGB PNGs of
2048² to ``patches.npy``, medians of five runs, each in a fresh process with its peak memory. The
plain way is one image after the other with scikit-image's `blob_log` on the same search image and
Pillow's reading and cropping, on a few images; F1 is ours against it, within 3 px.
"""

import resource
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
from machine import write_results
from PIL import Image

from hsc_utils import detection, paper, preparation, simulation
from hsc_utils.detection import blobs

SIDE = 2048
IMAGES = {"LT-HSC": 3, "ST-HSC": 3, "MPP": 3}
RUNS = 5
PLAIN_IMAGES = 2
THRESHOLDS = {"log": 0.2, "dog": 0.2, "doh": 0.01}


def extract(prepared_dir: Path, cells_dir: Path, method: str) -> tuple[float, int, float]:
    """Return the seconds, the number of cells and the peak memory in GB of one extraction."""
    started = time.perf_counter()
    settings = detection.DetectionSettings(method=method, threshold=THRESHOLDS[method])
    cells = detection.extract_cells(prepared_dir, cells_dir, settings)
    seconds = time.perf_counter() - started
    return seconds, len(cells), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def compare_with_plain_way(folder: Path) -> dict:
    """Return the images per second of the plain way, and F1 of our detections against its."""
    settings = detection.DetectionSettings(threshold=THRESHOLDS["log"])
    seconds, pairs = 0.0, []
    for path in sorted((folder / "prepared/images").glob("*.png"))[:PLAIN_IMAGES]:
        started = time.perf_counter()
        image = Image.open(path).convert("RGB")
        with mock.patch.object(blobs, "blob_log", partial(blobs.blob_log, exact=True)):
            plain = detection.detect_cells(np.asarray(image), settings)
        corners = np.rint(plain[:, :2]).astype(int) - 32
        patches = [image.crop((x, y, x + 64, y + 64)) for y, x in corners.tolist()]
        np.save(folder / "plain.npy", np.stack([np.asarray(patch) for patch in patches]))
        seconds += time.perf_counter() - started
        found = detection.detect_cells(np.asarray(image), settings)
        pairs.append(detection.match_detections(found, plain, 3))
        print("plain", path.name, f"{seconds:.1f}", pairs[-1]["f1"], flush=True)
    total = pd.DataFrame(pairs)[["matched", "found", "true"]].sum()
    f1 = 2 * total["matched"] / (total["found"] + total["true"])
    return {"plain_images_per_s": round(len(pairs) / seconds, 3), "f1_to_plain": round(f1, 4)}


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
        # for the others, scikit-image's own functions are ours as well
        rows[0] |= compare_with_plain_way(folder)
        rows[0]["ratio"] = round(rows[0]["images_per_s"] / rows[0]["plain_images_per_s"], 1)
    write_results("cells", rows, ("opencv-python-headless", "scikit-image"))


if __name__ == "__main__":
    main()
