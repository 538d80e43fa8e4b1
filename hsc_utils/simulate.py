"""Demo acquisitions on the paper's plan, with known truth, written as OIR files.

Three classes, some two, most three, some four slices a file, ST-HSC three times as dense as
the others. Class shows in size, granularity and nucleus, with overlap; brightness says
nothing about it. Every acquisition is drawn from its own seed, made of the demo's seed and
the file's name, so neither the order of work nor other files change it.

The truth (centres, radii, outlines) goes to its own folder, for scoring alone.
"""

import argparse
import json
import zlib
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from hsc_utils import optics
from hsc_utils.oir import write_oir
from hsc_utils.provenance import atomic_path, from_root, shown_path, write_csv, write_json

DEMO_COUNTS = {"LT-HSC": 30, "ST-HSC": 36, "MPP": 30}
SLICE_NAMES = ("DIC", "Brightfield", "Autofluorescence", "Far red")
COMMENT = "SIMULATED by hsc_utils.simulate: no microscope and no cell was involved."

# Mean radius (px), nucleus over cell, granularity, and cells in a field of 640 x 640 px.
_CLASSES = {
    "LT-HSC": (13.9, 0.80, 0.55, 12),
    "ST-HSC": (15.2, 0.74, 1.45, 34),
    "MPP": (17.0, 0.66, 0.85, 12),
}
_RADIUS_SPREAD, _NUCLEUS_SPREAD, _GRANULARITY_SPREAD = 1.3, 0.045, 0.35
_OUT_OF_FOCUS = 0.12
_TOUCHING = 0.15
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
    unknown = sorted(set(counts) - set(_CLASSES))
    if unknown or not counts or min(counts.values()) < 1 or days < 1:
        raise ValueError(
            f"counts={dict(counts)}, days={days}: expected at least 1 day and at least 1 "
            f"acquisition a class, of the classes {', '.join(_CLASSES)}."
        )
    rows = []
    for class_name, count in counts.items():
        for k in range(count):
            rng = _generator(seed, class_name, "slices", k // 6)
            day = k % days
            minute = 15 * (k // days) + 5 * list(_CLASSES).index(class_name)
            acquired_at = _FIRST_DAY + timedelta(weeks=day, minutes=minute)
            source = f"{class_name}/{acquired_at:%Y-%m-%d}/field_{k + 1:03d}.oir"
            slices = int(rng.permutation(_SLICES_OF_SIX)[k % 6])
            rows.append((source, class_name, day, slices, acquired_at))
    return pd.DataFrame(rows, columns=["source", "class", "day", "slices", "acquired_at"])


def _generator(seed: int, *key: object) -> np.random.Generator:
    """Return the random numbers that belong to a key, the same in every process."""
    return np.random.default_rng([seed, zlib.crc32("/".join(map(str, key)).encode())])


def draw_cells(source: str, class_name: str, size: int, seed: int) -> pd.DataFrame:
    """Decide where the cells of one acquisition lie and what they are like.

    Parameters
    ----------
    source, class_name : str
        The acquisition's file and class.
    size : int
        Side of the field of view in pixels.
    seed : int
        Seed of the demo.

    Returns
    -------
    DataFrame
        One row a cell: ``source``, ``label`` (its value in the label image, from 1), ``y``,
        ``x``, ``radius_px``, ``class``, ``in_focus``, ``focus_um``, ``nucleus_ratio``,
        ``granularity``.
    """
    rng = _generator(seed, source, "cells")
    mean_radius, nucleus, granules, density = _CLASSES[class_name]
    wanted = max(1, rng.poisson(density * (size / 640) ** 2 * rng.uniform(0.75, 1.25)))
    radius = np.clip(rng.normal(mean_radius, _RADIUS_SPREAD, wanted), 11.5, 20.5)
    centres = _place(rng, radius, size)
    radius, count = radius[: len(centres)], len(centres)
    far = rng.uniform(size=count) < _OUT_OF_FOCUS
    away = rng.choice([-1, 1], count) * rng.uniform(4, 8, count)
    return pd.DataFrame(
        {
            "source": source,
            "label": np.arange(1, count + 1),
            "y": centres[:, 0].round(3),
            "x": centres[:, 1].round(3),
            "radius_px": radius.round(3),
            "class": class_name,
            "in_focus": ~far,
            "focus_um": np.where(far, away, rng.normal(0, 0.5, count)).round(3),
            "nucleus_ratio": np.clip(rng.normal(nucleus, _NUCLEUS_SPREAD, count), 0.5, 0.9),
            "granularity": granules * rng.lognormal(0, _GRANULARITY_SPREAD, count),
        }
    )


def _place(rng: np.random.Generator, radius: np.ndarray, size: int) -> np.ndarray:
    """Scatter cells that do not overlap; some settle against a neighbour.

    A cell that finds no room after 200 tries is left out, with those that follow.
    """
    centres: list[np.ndarray] = []
    for k, own in enumerate(radius):
        for _ in range(200):
            if centres and rng.uniform() < _TOUCHING:
                other = rng.integers(k)
                angle = rng.uniform(0, 2 * np.pi)
                step = 0.98 * (own + radius[other])
                centre = centres[other] + step * np.array([np.sin(angle), np.cos(angle)])
            else:
                centre = rng.uniform(3, size - 4, 2)
            gaps = [
                np.hypot(*(centre - c)) / (own + r) for c, r in zip(centres, radius, strict=False)
            ]
            if np.all((centre >= 3) & (centre <= size - 4)) and min(gaps, default=1) > 0.97:
                centres.append(centre)
                break
        else:
            break
    return np.array(centres).reshape(-1, 2)


def render(
    cells: pd.DataFrame, slices: int, day: int, size: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Take the picture of one acquisition.

    Parameters
    ----------
    cells : DataFrame
        From `draw_cells`.
    slices : int
        2 to 4, the first of `SLICE_NAMES`.
    day : int
        Acquisition day: gains, illumination and dust are those of the day.
    size : int
        Side of the field of view in pixels.
    seed : int
        Seed of the demo.

    Returns
    -------
    pixels : uint16 array of shape (slices, size, size)
        12-bit grey levels.
    labels : uint16 array of shape (size, size)
        0 for background, otherwise the cell's ``label``.
    """
    rng = _generator(seed, cells["source"].iloc[0], "pixels")
    centres = cells[["y", "x"]].to_numpy()
    nearest = np.rint(centres).astype(int)
    drawn = [
        optics.cell_delay(rng, tuple(centre - pixel), radius, nucleus, granularity)
        for centre, pixel, radius, nucleus, granularity in zip(
            centres,
            nearest,
            cells["radius_px"],
            cells["nucleus_ratio"],
            cells["granularity"],
            strict=True,
        )
    ]
    delay, glow, inside = map(np.stack, zip(*drawn, strict=True))
    glow *= rng.lognormal(0, 0.35, (len(glow), 1, 1))
    debris_delay, debris_glow, debris_at, debris_focus = _debris(rng, size)
    corners = np.concatenate([nearest, debris_at]) - optics.SPREAD_SIDE // 2
    focus = np.concatenate([cells["focus_um"].to_numpy(), debris_focus])
    added = (
        *optics.transmitted(np.concatenate([delay, debris_delay]), focus),
        np.stack(list(map(optics.glow_seen, np.concatenate([glow, debris_glow]), focus))),
    )
    light = [np.full((size, size), level, np.float32) for level in (1, 1, 0)]
    for field, windows in zip(light, added, strict=True):
        optics.add_objects(field, windows.astype(np.float32), corners)
    labels = np.zeros((size, size), np.uint16)
    for label, at, mask in zip(cells["label"], nearest - optics.SIDE // 2, inside, strict=True):
        here = np.zeros((size, size), np.float32)
        optics.add_objects(here, mask[None].astype(np.float32), at[None])
        labels[(here > 0) & (labels == 0)] = label
    return np.stack(_expose_slices(rng, light, day, size, seed)[:slices]), labels


def _debris(
    rng: np.random.Generator, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Scatter fragments smaller than cells at any height: delay, glow, position, focus."""
    count = 1 + rng.poisson(9 * (size / 640) ** 2)
    delay, glow = np.zeros((2, count, optics.SIDE, optics.SIDE), np.float32)
    for k in range(count):
        distance = optics.outline(rng, tuple(rng.uniform(-1, 1, 2)), rng.uniform(1.5, 5), 0.15)
        delay[k] = rng.uniform(0.8, 2.2) * np.exp(-(distance**4))
        glow[k] = (rng.uniform() < 0.3) * rng.uniform(0.05, 0.3) * delay[k] / delay[k].sum()
    return delay, glow, rng.integers(0, size, (count, 2)), rng.normal(0, 5, count)


def _expose_slices(
    rng: np.random.Generator, light: list[np.ndarray], day: int, size: int, seed: int
) -> list[np.ndarray]:
    """Put the four slices through the day's illumination, gains and detector."""
    of_day = _generator(seed, "day", day)
    gains = of_day.lognormal(0, 0.12, 4) * rng.lognormal(0, 0.04, 4)
    middle, falloff = of_day.uniform(0.35, 0.65, 2), of_day.uniform(0.25, 0.45)
    shade = optics.shading(size, tuple(middle + rng.normal(0, 0.02, 2)), falloff)
    tilt = 1 + np.linspace(-0.5, 0.5, size, dtype=np.float32) * of_day.uniform(0.02, 0.1)
    dic, brightfield, glow = light
    glow = 350000 * glow + 60  # grey levels of a typical cell in total, and of the medium
    camera = {"offset": 100, "read_noise": 4}
    weak = {"photons": 1 / 25, "counts": 1.0, "offset": 100, "read_noise": 5}
    return [
        optics.expose(
            rng, dic * tilt * tilt[:, None], counts=1500 * gains[0], photons=2500, **camera
        ),
        optics.expose(rng, brightfield * shade, counts=1700 * gains[1], photons=4000, **camera),
        optics.expose(rng, glow * shade * gains[2], **weak),
        optics.expose(rng, 0.02 * glow * gains[3], **(weak | {"offset": 40})),
    ]


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
        pixel_size_um=optics.PIXEL_SIZE_UM,
        objective=optics.OBJECTIVE,
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

    Finished acquisitions are kept, so an interrupted call is completed by the next one,
    and a complete demo is left as it is.

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
        Processes that work side by side.

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
    if size < optics.SPREAD_SIDE:
        raise ValueError(f"size={size} is too small: expected at least {optics.SPREAD_SIDE} px.")
    acquisitions = plan_demo(counts, days, seed)
    _claim(truth_dir, {"counts": dict(counts), "size": size, "days": days, "seed": seed})
    truth_path = truth_dir / "cells.csv"
    missing = [
        row for row in acquisitions.to_dict("records") if not (raw_dir / row["source"]).exists()
    ]
    if not missing and truth_path.exists():
        return pd.read_csv(truth_path)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        jobs = [
            pool.submit(write_acquisition, raw_dir, truth_dir, row, size, seed) for row in missing
        ]
        for job in tqdm(jobs, desc="simulate", unit="acquisition"):
            job.result()
    cells = [
        draw_cells(row["source"], row["class"], size, seed)
        for row in acquisitions.to_dict("records")
    ]
    write_csv(truth_path, pd.concat(cells))
    return pd.read_csv(truth_path)


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
