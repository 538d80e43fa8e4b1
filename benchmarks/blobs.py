"""Claim: `blob_log` finds what scikit-image's finds, about a hundred times faster.

Run `python benchmarks/blobs.py`; it writes ``benchmarks/results/blobs.csv``. Real fields are
added where the environment variable HSC_TEST_DATA names a folder that holds some.
"""

import os
import platform
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import tifffile
from scipy.optimize import linear_sum_assignment
from skimage import feature

from hsc_utils import simulate
from hsc_utils.acquisition import compose_rgb, read_acquisition
from hsc_utils.blobs import DetectionSettings, blob_log, detect_cells
from hsc_utils.patches import cut_patches, read_rgb, write_rgb
from hsc_utils.provenance import ROOT, write_csv

SIDE = 2048
SCALES = {"10 to 30": (10, 30, 10), "1 to 5": (1, 5, 5)}


def fields(folder: Path) -> dict[str, np.ndarray]:
    """Return grayscale fields in which blobs are bright: simulated, noise and real."""
    simulate.write_demo(folder / "raw", folder / "truth", {"ST-HSC": 1}, size=SIDE, days=1)
    path = next((folder / "raw").rglob("*.oir"))
    rgb = compose_rgb(read_acquisition(path))
    write_rgb(folder / "field.png", rgb)
    noise = np.random.default_rng(0).normal(128, 75, (SIDE, SIDE))
    images = {
        "simulated": rgb[:, :, 1],
        "simulated, inverted": 255 - rgb[:, :, 1],
        "noise": np.clip(noise, 0, 255).astype(np.uint8),
    }
    if "HSC_TEST_DATA" in os.environ:
        real = Path(os.environ["HSC_TEST_DATA"])
        planes = tifffile.imread(real / "slices" / "brightfield_4slice.tif")
        for number, plane in enumerate(planes):
            images[f"real brightfield, plane {number}"] = 255 - plane
        mirrored = cv2.copyMakeBorder(planes[3], 0, 1024, 0, 704, cv2.BORDER_REFLECT_101)
        images["real brightfield, mirrored to 2048"] = 255 - mirrored
        for name in ("hspc_crop", "suspension_cells"):
            plane = cv2.imread(str(real / "fields/brightfield" / f"{name}.png"), 0)
            images[f"real {name}"] = 255 - plane
        for smear in sorted((real / "fields/blood_smear").glob("*.jpg"))[:3]:
            images[f"real smear {smear.stem[-3:]}"] = 255 - cv2.imread(str(smear))[:, :, 1]
    return images


def agreement(found: np.ndarray, reference: np.ndarray, step: float) -> float:
    """Return the F1 of two sets of blobs, the same within 2 px and one scale step."""
    if not len(found) or not len(reference):
        return float(len(found) == len(reference))
    apart = np.hypot(*(found[:, None, :2] - reference[None, :, :2]).transpose(2, 0, 1))
    near = (apart <= 2) & (np.abs(found[:, None, 2] - reference[None, :, 2]) <= step + 1e-6)
    rows, columns = linear_sum_assignment(~near)
    return 2 * near[rows, columns].sum() / (len(found) + len(reference))


def timed(function, *arguments, repeats: int = 1, **options) -> tuple[np.ndarray, float]:
    """Return a result and the shortest time of several runs in seconds."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        result = function(*arguments, **options)
        times.append(time.perf_counter() - started)
    return result, min(times)


def compare(name: str, image: np.ndarray, scales: str) -> dict:
    """Compare `blob_log` with scikit-image's on one field."""
    sigmas, threshold = SCALES[scales], 0.03
    reference, slow = timed(feature.blob_log, image, *sigmas, threshold=threshold)
    found, fast = timed(blob_log, image, *sigmas, threshold=threshold, repeats=5)
    exact, middle = timed(blob_log, image, *sigmas, threshold=threshold, exact=True)
    return {
        "field": name, "pixels": "×".join(map(str, image.shape)), "sigmas": scales,
        "blobs": len(reference), "scikit_image_s": round(slow, 2), "ours_s": round(fast, 3),
        "ratio": round(slow / fast), "f1": round(agreement(found, reference, 2.3), 4),
        "exact_s": round(middle, 2), "exact_is_equal": np.array_equal(exact, reference),
    }  # fmt: skip


def end_to_end(path: Path) -> float:
    """Return the seconds from a PNG to its patches."""

    def work() -> np.ndarray:
        rgb = read_rgb(path)
        return cut_patches(rgb, detect_cells(rgb, DetectionSettings()), 64)[1]

    return timed(work, repeats=3)[1]


def main() -> None:
    """Write the table."""
    with tempfile.TemporaryDirectory() as folder:
        images = fields(Path(folder))
        rows = [compare(name, image, "10 to 30") for name, image in images.items()]
        rows += [
            compare(name, image, "1 to 5") for name, image in images.items() if name != "noise"
        ]
        seconds = end_to_end(Path(folder) / "field.png")
    table = pd.DataFrame(rows).assign(
        cores=len(os.sched_getaffinity(0)), machine=platform.machine(),
        scikit_image=version("scikit-image"), scipy=version("scipy"),
    )  # fmt: skip
    write_csv(ROOT / "benchmarks/results/blobs.csv", table)
    print(table.to_string())
    hours = 3539 * seconds / 3600
    print(f"PNG to patches at {SIDE}²: {seconds:.2f} s an image, {hours:.1f} h for 3,539")


if __name__ == "__main__":
    main()
