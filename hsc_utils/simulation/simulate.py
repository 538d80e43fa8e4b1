"""Demo acquisitions on the paper's plan, with known truth, written as OIR files.

Three classes, some two, most three, some four slices a file, ST-HSC three times as dense as
the others. Class shows in size, granularity and nucleus, with overlap; brightness says
nothing about it. Every acquisition is drawn from its own seed, made of the demo's seed and
the file's name, so neither the order of work nor other files change it.

The truth (centres, radii, outlines) goes to its own folder, for scoring alone.
"""

import argparse
import json
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from hsc_utils.files import atomic_path, from_root, shown_path, write_csv, write_json
from hsc_utils.provenance import no_bar
from hsc_utils.simulation.oir import write_oir
from hsc_utils.simulation.optics import OBJECTIVE, SPREAD_SIDE, render
from hsc_utils.simulation.specimen import CLASSES, PIXEL_SIZE_UM, draw_cells, generator

DEMO_COUNTS = {"LT-HSC": 30, "ST-HSC": 36, "MPP": 30}
SLICE_NAMES = ("DIC", "Brightfield", "Autofluorescence", "Far red")
COMMENT = "SIMULATED by hsc_utils.simulate: no microscope and no cell was involved."

_FIRST_DAY = datetime(2024, 3, 4, 9, tzinfo=UTC)
_SLICES_OF_SIX = (2, 3, 3, 3, 3, 4)


def plan_demo(counts: Mapping[str, int], days: int, seed: int) -> pd.DataFrame:
    """List the acquisitions to make; raising a count only adds to the list.

    Parameters
    ----------
    counts : mapping of str to int
        Acquisitions by class: ``LT-HSC``, ``ST-HSC``, ``MPP``.
    days : int
        Acquisition days; every class is spread evenly over them.
    seed : int
        Decides how many slices an acquisition has: of each six of a class, one has two,
        four have three and one has four.

    Returns
    -------
    DataFrame
        Columns ``source`` (relative to the raw folder), ``class``, ``day`` (0-based),
        ``slices`` and ``acquired_at``.

    Raises
    ------
    ValueError
        If a class is unknown or a count or the number of days is below 1.
    """
    unknown = sorted(set(counts) - set(CLASSES))
    if unknown or not counts or min(counts.values()) < 1 or days < 1:
        raise ValueError(
            f"counts={dict(counts)}, days={days}: expected at least 1 day and at least 1 "
            f"acquisition a class, of the classes {', '.join(CLASSES)}."
        )
    rows = []
    for class_name, count in counts.items():
        for k in range(count):
            rng = generator(seed, class_name, "slices", k // 6)
            day = k % days
            minute = 15 * (k // days) + 5 * list(CLASSES).index(class_name)
            acquired_at = _FIRST_DAY + timedelta(weeks=day, minutes=minute)
            source = f"{class_name}/{acquired_at:%Y-%m-%d}/field_{k + 1:03d}.oir"
            slices = int(rng.permutation(_SLICES_OF_SIX)[k % 6])
            rows.append((source, class_name, day, slices, acquired_at))
    return pd.DataFrame(rows, columns=["source", "class", "day", "slices", "acquired_at"])


def write_acquisition(
    raw_dir: Path, truth_dir: Path, acquisition: Mapping, size: int, seed: int
) -> None:
    """Make one acquisition (a row of `plan_demo`): its label image, then its OIR file."""
    source = acquisition["source"]
    cells = draw_cells(source, acquisition["class"], size, seed)
    pixels, labels = render(cells, acquisition["slices"], acquisition["day"], size, seed)
    with atomic_path(_label_path(truth_dir, source)) as temporary:
        Image.fromarray(labels).save(temporary, format="PNG")
    write_oir(
        raw_dir / source,
        pixels,
        channel_names=SLICE_NAMES[: len(pixels)],
        acquired_at=acquisition["acquired_at"],
        pixel_size_um=PIXEL_SIZE_UM,
        objective=OBJECTIVE,
        comment=COMMENT,
    )


def _label_path(truth_dir: Path, source: str) -> Path:
    return truth_dir / "masks" / Path(source).with_suffix(".png")


def write_demo(
    raw_dir: str | Path,
    truth_dir: str | Path,
    counts: Mapping[str, int] = DEMO_COUNTS,
    *,
    size: int = 640,
    days: int = 6,
    seed: int = 0,
    workers: int = 2,
) -> pd.DataFrame:
    """Write the demo: OIR files, label images and the table of true cells.

    Four files that cannot be used lie among the acquisitions, as in any raw folder. Finished
    acquisitions are kept, so an interrupted call is completed by the next one, and a complete
    demo is left as it is.

    Parameters
    ----------
    raw_dir, truth_dir : path
        Folders for ``<class>/<day>/<name>.oir``, and for ``cells.csv`` and
        ``masks/<class>/<day>/<name>.png``.
    counts : mapping of str to int
        Acquisitions by class.
    size : int
        Side of a field of view in pixels.
    days : int
        Acquisition days, each with all classes.
    seed : int
        The same seed gives the same bytes, whatever the number of workers.
    workers : int
        Processes that work side by side; 1 starts none.

    Returns
    -------
    DataFrame
        The table of true cells (columns of `draw_cells`).

    Raises
    ------
    ValueError
        If the folder holds a demo made with other settings, or a setting is out of range.
    """
    raw_dir, truth_dir = from_root(raw_dir), from_root(truth_dir)
    if size < SPREAD_SIDE:
        raise ValueError(f"size={size} is too small: expected at least {SPREAD_SIDE} px.")
    acquisitions = plan_demo(counts, days, seed)
    _claim(truth_dir, {"counts": dict(counts), "size": size, "days": days, "seed": seed})
    rows = acquisitions.to_dict("records")
    missing = [
        row
        for row in rows
        if not (raw_dir / row["source"]).exists()
        or not _label_path(truth_dir, row["source"]).exists()
    ]
    truth_path = truth_dir / "cells.csv"
    if missing or not truth_path.exists():
        job = partial(write_acquisition, raw_dir, truth_dir, size=size, seed=seed)
        with ExitStack() as stack:
            run = map
            if workers > 1:
                spawn = get_context("spawn")
                run = stack.enter_context(ProcessPoolExecutor(workers, spawn)).map
            done = run(job, missing)
            list(tqdm(done, "simulate", len(missing), unit="acquisition", disable=no_bar()))
        cells = [draw_cells(row["source"], row["class"], size, seed) for row in rows]
        write_csv(truth_path, pd.concat(cells))
    _write_unusable(raw_dir, rows[-1])
    return pd.read_csv(truth_path)


def _write_unusable(raw_dir: Path, acquisition: Mapping) -> None:
    """Add what any raw folder holds: a copy, a transfer cut short, a test exposure, and notes."""
    source = raw_dir / acquisition["source"]
    content = source.read_bytes()
    one_slice = np.full((1, 64, 64), 1000, np.uint16)
    for name, write in {
        "saved twice.oir": lambda path: path.write_bytes(content),
        "cut short.oir": lambda path: path.write_bytes(content[: 2 * len(content) // 3]),
        "test exposure.oir": lambda path: write_oir(
            path, one_slice, channel_names=SLICE_NAMES[:1], pixel_size_um=PIXEL_SIZE_UM,
            acquired_at=acquisition["acquired_at"], comment=COMMENT,
        ),
        "notes.txt": lambda path: path.write_text("Simulated: notes taken beside the microscope\n"),
    }.items():  # fmt: skip
        if not source.with_name(name).exists():
            with atomic_path(source.with_name(name)) as temporary:
                write(temporary)


def _claim(truth_dir: Path, settings: dict) -> None:
    """Record a demo's settings, and refuse to mix two demos in one folder."""
    path = truth_dir / "settings.json"
    if not path.exists():
        write_json(path, settings)
    elif (found := json.loads(path.read_text())) != settings:
        differing = [name for name in settings if found.get(name) != settings[name]]
        raise ValueError(
            f"{shown_path(truth_dir)} belongs to a demo with other {', '.join(differing)} "
            f"({found}): choose other folders, or delete this one and its raw folder."
        )


def main() -> None:
    """Run `write_demo` from the command line."""
    parser = argparse.ArgumentParser(prog="python -m hsc_utils.simulate", description=__doc__)
    parser.add_argument("--raw-dir", default="results/demo/raw")
    parser.add_argument("--truth-dir", default="results/demo/truth")
    parser.add_argument("--lt-hsc", type=int, default=DEMO_COUNTS["LT-HSC"], help="acquisitions")
    parser.add_argument("--st-hsc", type=int, default=DEMO_COUNTS["ST-HSC"], help="acquisitions")
    parser.add_argument("--mpp", type=int, default=DEMO_COUNTS["MPP"], help="acquisitions")
    parser.add_argument("--size", type=int, default=640, help="side of a field, px")
    parser.add_argument("--days", type=int, default=6, help="acquisition days")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="processes")
    options = vars(parser.parse_args())
    counts = {name: options.pop(name.lower().replace("-", "_")) for name in DEMO_COUNTS}
    raw_dir, truth_dir = options.pop("raw_dir"), options.pop("truth_dir")
    cells = write_demo(raw_dir, truth_dir, counts, **options)
    print(f"{shown_path(raw_dir)}: {sum(counts.values())} acquisitions, {len(cells)} cells")


if __name__ == "__main__":
    main()
