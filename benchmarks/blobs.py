"""Claim: `blob_log` finds what scikit-image's finds, about a hundred times faster.

Run `python benchmarks/blobs.py`; it writes ``benchmarks/results/blobs.csv``: medians of five
runs, and the F1 against scikit-image within 2 px and one scale step. Real fields are added
where the environment variable HSC_TEST_DATA names a folder that holds some.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import tifffile
from machine import write_results
from skimage import feature

from hsc_utils import preparation, simulation
from hsc_utils.detection import blob_log
from hsc_utils.detection.matching import agreement

SIDE = 2048
REPEATS = 5
SCALES = {"10 to 30": (10, 30, 10), "1 to 5": (1, 5, 5)}


def fields(folder: Path) -> dict[str, np.ndarray]:
    """Return grayscale fields in which blobs are bright: simulated, noise and real."""
    simulation.write_demo(folder / "raw", folder / "truth", {"ST-HSC": 1}, size=SIDE, days=1)
    path = next((folder / "raw").rglob("*.oir"))
    rgb = preparation.compose_rgb(preparation.read_acquisition(path))
    noise = np.random.default_rng(0).normal(128, 75, (SIDE, SIDE))
    images = {
        "simulated": rgb[:, :, 1],
        "simulated, inverted": 255 - rgb[:, :, 1],
        "noise": np.clip(noise, 0, 255).astype(np.uint8),
    }
    if "HSC_TEST_DATA" in os.environ:
        real = Path(os.environ["HSC_TEST_DATA"])
        planes = tifffile.imread(real / "slices" / "brightfield_4slice.tif")
        for number in (1, 3):
            images[f"real brightfield, plane {number}"] = 255 - planes[number]
        mirrored = cv2.copyMakeBorder(planes[3], 0, 1024, 0, 704, cv2.BORDER_REFLECT_101)
        images["real brightfield, mirrored to 2048"] = 255 - mirrored
        for name in ("hspc_crop", "suspension_cells"):
            plane = cv2.imread(str(real / "fields/brightfield" / f"{name}.png"), 0)
            images[f"real {name}"] = 255 - plane
        for smear in sorted((real / "fields/blood_smear").glob("*.jpg"))[:3]:
            images[f"real smear {smear.stem[-3:]}"] = 255 - cv2.imread(str(smear))[:, :, 1]
    return images


def timed(function: Callable, *arguments, **options) -> tuple:
    """Return a result and the median time of several runs in seconds."""
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        result = function(*arguments, **options)
        times.append(time.perf_counter() - started)
    return result, statistics.median(times)


def compare(name: str, image: np.ndarray, scales: str) -> dict:
    """Compare `blob_log` with scikit-image's on one field."""
    low, high, count = SCALES[scales]
    sigmas = {"min_sigma": low, "max_sigma": high, "num_sigma": count, "threshold": 0.03}
    blob_log(image, **sigmas)
    found, fast = timed(blob_log, image, **sigmas)
    expected, slow = timed(feature.blob_log, image, **sigmas)
    step = (high - low) / (count - 1)
    return {
        "field": name,
        "pixels": "×".join(map(str, image.shape)),
        "sigmas": scales,
        "blobs": len(expected),
        "scikit_image_s": round(slow, 3),
        "ours_s": round(fast, 3),
        "ratio": round(slow / fast, 1),
        "f1": round(agreement(found, expected, step), 4),
        "equal": np.array_equal(found, expected),
        "runs": REPEATS,
    }


def main() -> None:
    """Write the table."""
    with tempfile.TemporaryDirectory() as folder:
        images = fields(Path(folder))
    rows = []
    for scales in SCALES:
        for name, image in images.items():
            # noise is all blobs at small sigmas
            if name != "noise" or scales != "1 to 5":
                rows.append(compare(name, image, scales))
                print(*rows[-1].values(), sep=" | ", flush=True)
    write_results("blobs", rows, ("scikit-image", "scipy", "opencv-python-headless"))


if __name__ == "__main__":
    main()
