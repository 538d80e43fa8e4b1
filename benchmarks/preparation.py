"""Claim: step 01 is at least six times as fast as the plain way, in bounded memory.

``python benchmarks/preparation.py`` times 2048 × 2048 × 3 acquisitions of 12 bits, OIR to PNG,
from a warm cache, and writes ``results/preparation.csv``. With ``--memory`` it measures the
peak memory at 50 and 500 acquisitions (17 GB of disk) and writes
``results/preparation_memory.csv``.
"""

import argparse
import shutil
import statistics
import tempfile
import threading
import time
from pathlib import Path

import imagecodecs
import numpy as np
import oirfile
import pandas as pd
import psutil
from machine import write_results
from PIL import Image

from hsc_utils.files import ROOT
from hsc_utils.preparation import prepare_images
from hsc_utils.simulation import write_demo

PACKAGES = ("oirfile", "imagecodecs", "pillow", "numpy", "joblib")
SIDE = 2048
ALL_IMAGES = 3539  # preprint, data
RUNS = 5
COUNTS = {"LT-HSC": 4, "ST-HSC": 4, "MPP": 4}


def write_acquisitions(raw: Path, count: int) -> None:
    """Write as many acquisitions as asked: a few simulated, the others with one pixel changed."""
    write_demo(raw, raw.parent / "truth", COUNTS, size=SIDE, days=2)
    simulated = sorted(raw.rglob("field_*.oir"))
    first = [path for path in simulated if len(oirfile.imread(path)) == 3]
    for path in raw.rglob("*.*"):
        if path not in first:
            path.unlink()
    for k in range(count - len(first)):
        source = first[k % len(first)]
        copy = source.with_name(f"copy_{k:04d}.oir")
        shutil.copy(source, copy)
        _change_one_pixel(copy, k)


def _change_one_pixel(path: Path, k: int) -> None:
    """Make a copy another file by its bytes; the pixels of an OIR file lie in its middle."""
    with path.open("r+b") as stream:
        stream.seek(path.stat().st_size // 2 + 2 * k & ~1)
        pixel = stream.read(1)
        stream.seek(-1, 1)
        stream.write(bytes([pixel[0] ^ 1]))


def plain_way(paths: list[Path], target: Path) -> None:
    """Convert file by file with oirfile, NumPy and Pillow's default PNG, in one process."""
    target.mkdir()
    for path in paths:
        pixels = oirfile.imread(path)
        rgb = np.round(pixels * (255 / 4095)).astype(np.uint8).transpose(1, 2, 0)
        Image.fromarray(rgb).save(target / f"{path.stem}.png")


def prepare(raw: Path, prepared: Path) -> pd.DataFrame:
    """Run step 01; copies look alike, which may leave a class too few independent images."""
    return prepare_images(raw, prepared, small_classes="train")


def compare(folder: Path, count: int = 48, plain_count: int = 4) -> dict:
    """Time both ways in turns, and check that their images are the same."""
    write_acquisitions(folder / "raw", count)
    paths = sorted((folder / "raw").rglob("*.oir"))
    for path in paths:
        path.read_bytes()  # a warm cache
    plain, ours = [], []
    for run in range(RUNS):
        for times, work, files in (
            (plain, lambda to: plain_way(paths[:plain_count], to), plain_count),
            (ours, lambda to: prepare(folder / "raw", to), count),
        ):
            target = folder / f"{len(times)}-{files}"
            started = time.perf_counter()
            work(target)
            times.append((time.perf_counter() - started) / files)
            if run < RUNS - 1:
                shutil.rmtree(target)
    _check_same(paths[:plain_count], folder / f"{RUNS - 1}-{plain_count}", target)
    plain_s, ours_s = statistics.median(plain), statistics.median(ours)
    return {
        "acquisitions": count,
        "plain_s_a_file": round(plain_s, 3),
        "ours_s_a_file": round(ours_s, 3),
        "plain_a_second": round(1 / plain_s, 2),
        "ours_a_second": round(1 / ours_s, 2),
        "ratio": round(plain_s / ours_s, 1),
        "slowest_ours_s_a_file": round(max(ours), 3),
        "runs": RUNS,
        "minutes_for_all": round(ALL_IMAGES * ours_s / 60, 1),
        "minutes_for_all_plain": round(ALL_IMAGES * plain_s / 60, 1),
        **_png_megabytes(paths[:plain_count], folder / f"{RUNS - 1}-{plain_count}", target),
    }


def _own_image(path: Path, prepared: Path) -> Path:
    parts = path.relative_to(path.parents[2]).with_suffix(".png").parts
    return prepared / "images" / "__".join(parts)


def _check_same(paths: list[Path], plain: Path, ours: Path) -> None:
    for path in paths:
        got = imagecodecs.png_decode(_own_image(path, ours).read_bytes())
        expected = np.asarray(Image.open(plain / f"{path.stem}.png"))
        np.testing.assert_array_equal(got, expected)


def _png_megabytes(paths: list[Path], plain: Path, ours: Path) -> dict:
    sizes = {
        "plain_png_mb": [(plain / f"{path.stem}.png").stat().st_size for path in paths],
        "ours_png_mb": [_own_image(path, ours).stat().st_size for path in paths],
    }
    return {name: round(statistics.mean(size) / 1e6, 2) for name, size in sizes.items()}


def peak_memory(folder: Path, count: int) -> dict:
    """Measure the resident memory of this process and its workers, ten times a second.

    Libraries that processes share are counted once for each.
    """
    write_acquisitions(folder / "raw", count)
    me, peaks, stop = psutil.Process(), [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.1):
            family = [me, *me.children(recursive=True)]
            peaks.append(sum(_resident_bytes(process) for process in family))

    watcher = threading.Thread(target=watch)
    before = _resident_bytes(me)
    watcher.start()
    started = time.perf_counter()
    images = prepare(folder / "raw", folder / "prepared")
    seconds = time.perf_counter() - started
    stop.set()
    watcher.join()
    return {
        "acquisitions": count,
        "images": len(images),
        "peak_rss_mb": round(max(peaks) / 1e6),
        "before_rss_mb": round(before / 1e6),
        "seconds": round(seconds, 1),
        "acquisitions_a_second": round(count / seconds, 2),
    }


def _resident_bytes(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0


def main() -> None:
    """Write the table of speed, or of memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory", action="store_true", help="measure memory instead of speed")
    (ROOT / "results").mkdir(exist_ok=True)
    if not parser.parse_args().memory:
        with tempfile.TemporaryDirectory(dir=ROOT / "results") as folder:
            write_results("preparation", [compare(Path(folder))], PACKAGES)
        return
    rows = []
    for count in (50, 500):
        with tempfile.TemporaryDirectory(dir=ROOT / "results") as folder:
            rows.append(peak_memory(Path(folder), count))
    write_results("preparation_memory", rows, PACKAGES)


if __name__ == "__main__":
    main()
