"""Demo acquisitions on the paper's plan, with known truth, written as OIR files.

Three classes, most files with three slices, some with two or four, ST-HSC three times as dense
as the others; what else tells the classes apart is planted in `specimen.TRAITS`. Every
acquisition is drawn from its own seed, made of the demo's seed and the file's name, so neither
the order of work nor other files change it.

The truth (centres, radii, outlines) goes to its own folder, for scoring alone.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from PIL import Image
from tqdm.auto import tqdm

from hsc_utils.files import (
    atomic_path,
    from_caller,
    from_root,
    no_bar,
    shown_path,
    write_csv,
    write_json,
)
from hsc_utils.provenance import code_digest
from hsc_utils.simulation.oir import write_oir
from hsc_utils.simulation.optics import OBJECTIVE, PARTS, SPREAD_SIDE, render
from hsc_utils.simulation.specimen import DENSITY, PIXEL_SIZE_UM, draw_cells, generator
from hsc_utils.simulation.traps import TRAPS

DEMO_COUNTS = {"LT-HSC": 84, "ST-HSC": 102, "MPP": 84}
SLICE_NAMES = ("DIC", "Brightfield", "Autofluorescence", "Far red")

_FIRST_DAY = datetime(2024, 3, 4, 9, tzinfo=UTC)
_SLICES_OF_TWENTY = (2, *[3] * 18, 4)
# folders of label images beside the truth, by part of a cell
_LABELS = {"inside": "masks", "nucleus": "nuclei", "granules": "granules"}
_OF_EVERY_FILE = {
    "pixel_size_um": PIXEL_SIZE_UM,
    "comment": "SIMULATED by hsc_utils.simulation: no microscope and no cell was involved.",
}
_UNUSABLE = ("saved twice.oir", "cut short.oir", "notes.txt", "test exposure.oir")
# A week after the demo's last, drawn from a seed of its own: neither its light nor a field repeats.
_NEW_DAY, _NEW_SEED = 10, 20240513
_CODE = tuple(f"simulation.{room}" for room in ("simulate", "specimen", "optics", "oir", "traps"))


def plan_demo(
    counts: Mapping[str, int], days: int, seed: int, trap: str = "none", first_day: int = 0
) -> pd.DataFrame:
    """List the acquisitions to make, classes evenly over days; a higher count only adds some.

    Where a trap asks for one class per day, the classes take turns. Days lie a week apart and count
    from that of the demo's first acquisition.
    """
    unknown = sorted(set(counts) - set(DENSITY))
    if unknown or not counts or min(counts.values()) < 1 or days < 1:
        raise ValueError(
            f"counts={dict(counts)}, days={days}: expected at least 1 day and at least 1 "
            f"acquisition a class, of the classes {', '.join(DENSITY)}."
        )
    one_class_a_day = TRAPS[trap].one_class_a_day
    if one_class_a_day and days < len(DENSITY):
        raise ValueError(f"days={days}: one class per day needs at least {len(DENSITY)} days.")
    rows = []
    for class_name, count in counts.items():
        number = list(DENSITY).index(class_name)
        all_days = range(first_day, first_day + days)
        own_days = all_days[number :: len(DENSITY)] if one_class_a_day else all_days
        for k in range(count):
            rng = generator(seed, class_name, "slices", k // 20)
            day, turn = own_days[k % len(own_days)], k // len(own_days)
            # In the demo the order within a turn is fixed. Over few turns the hour would tell the
            # class, which is not the trap that was asked for.
            place = number if trap == "none" else (number + day + turn) % len(DENSITY)
            minute = 15 * turn + 5 * place
            acquired_at = _FIRST_DAY + timedelta(weeks=day, minutes=minute)
            source = f"{class_name}/{acquired_at:%Y-%m-%d}/field_{k + 1:03d}.oir"
            slices = int(rng.permutation(_SLICES_OF_TWENTY)[k % 20])
            rows.append((source, class_name, day, slices, acquired_at))
    return pd.DataFrame(rows, columns=["source", "class", "day", "slices", "acquired_at"])


def write_acquisition(
    raw_dir: Path, truth_dir: Path, acquisition: Mapping, size: int, seed: int, trap: str
) -> None:
    """Make one acquisition (a row of `plan_demo`): its label images, then its OIR file."""
    source, class_name = acquisition["source"], acquisition["class"]
    cells = _cells_of(acquisition, size, seed, trap)
    artefacts = TRAPS[trap].artefacts[class_name]
    pixels, parts = render(cells, acquisition["slices"], acquisition["day"], size, seed, artefacts)
    for path, labels in zip(_label_paths(truth_dir, source), parts.values(), strict=True):
        with atomic_path(path) as temporary:
            Image.fromarray(labels).save(temporary, format="PNG")
    write_oir(
        raw_dir / source,
        pixels,
        channel_names=SLICE_NAMES[: len(pixels)],
        acquired_at=acquisition["acquired_at"],
        objective=OBJECTIVE,
        **_OF_EVERY_FILE,
    )


def _cells_of(acquisition: Mapping, size: int, seed: int, trap: str) -> pd.DataFrame:
    """Draw the cells of an acquisition (a row of `plan_demo`)."""
    source, class_name, plan = acquisition["source"], acquisition["class"], TRAPS[trap]
    return draw_cells(source, class_name, size, seed, plan.density, plan.contrast)


def _label_paths(truth_dir: Path, source: str) -> list[Path]:
    return [truth_dir / _LABELS[part] / Path(source).with_suffix(".png") for part in PARTS]


def write_demo(
    raw_dir: str | Path,
    truth_dir: str | Path,
    counts: Mapping[str, int] = DEMO_COUNTS,
    *,
    size: int = 400,
    days: int = 10,
    seed: int = 0,
    workers: int = 2,
    trap: str = "none",
) -> pd.DataFrame:
    """Write the demo: OIR files, label images and the table of true cells.

    Four files that cannot be used lie among the acquisitions, as in any raw folder. Finished
    acquisitions are kept, so an interrupted call is completed by the next one, and a complete
    demo is left as it is, unless other code made it: then every file is written anew.

    Parameters
    ----------
    raw_dir, truth_dir : path
        Folders for ``<class>/<day>/<name>.oir``, and for ``cells.csv`` and label images
        ``<part>/<class>/<day>/<name>.png``, parts being ``masks`` (whole cells), ``nuclei`` and
        ``granules``.
    counts : mapping of str to int
        Acquisitions by class.
    size : int
        Side of a field of view in pixels.
    days : int
        Acquisition days, each with all classes (but see `trap`).
    seed : int
        The same seed gives the same bytes, whatever the number of workers.
    workers : int
        Processes that work side by side; 1 starts none.
    trap : str
        One of `traps.TRAPS`: ``none`` for the demo; the others plant a shortcut (``day``: one
        class a day), or none at all (``clean``), beside cells that differ less.

    Returns
    -------
    DataFrame
        One row per true cell, columns as in `specimen.draw_cells`.

    Raises
    ------
    ValueError
        If a folder holds a demo made with other settings, or files that the simulator did not
        make, or if a setting is out of range.
    """
    if trap not in TRAPS:
        raise ValueError(f"trap={trap!r} is unknown: expected one of {', '.join(TRAPS)}.")
    plan = plan_demo(counts, days, seed, trap)
    settings = {"counts": dict(counts), "size": size, "days": days, "seed": seed, "trap": trap}
    return _write_acquisitions(raw_dir, truth_dir, plan, settings, _UNUSABLE, workers)


def write_new_day(
    raw_dir: str | Path, truth_dir: str | Path, *, size: int = 400, workers: int = 2
) -> pd.DataFrame:
    """Write four fields a class of a day that the demo does not have, for trained models to meet.

    Cells, sizes and microscope are those of the demo; the day's light is its own. One file is cut
    short, as a transfer can leave it. What is finished is kept, as by `write_demo`.

    Parameters
    ----------
    raw_dir, truth_dir : path
        Folders of their own, laid out as by `write_demo`.
    size : int
        Side of a field of view in pixels.
    workers : int
        Processes that work side by side; 1 starts none.

    Returns
    -------
    DataFrame
        One row per true cell, columns as in `specimen.draw_cells`.

    Raises
    ------
    ValueError
        If a folder holds another demo, or files that the simulator did not make.
    """
    counts = dict.fromkeys(DENSITY, 4)
    plan = plan_demo(counts, 1, _NEW_SEED, first_day=_NEW_DAY)
    settings = {"counts": counts, "size": size, "days": 1, "seed": _NEW_SEED, "trap": "none"}
    settings["first_day"] = _NEW_DAY
    return _write_acquisitions(raw_dir, truth_dir, plan, settings, ("cut short.oir",), workers)


def _write_acquisitions(
    raw_dir: str | Path,
    truth_dir: str | Path,
    plan: pd.DataFrame,
    settings: Mapping,
    unusable: Sequence[str],
    workers: int,
) -> pd.DataFrame:
    """Write what a plan lists and is not there yet, the truth, and some files of `_UNUSABLE`."""
    raw_dir, truth_dir = from_root(raw_dir), from_root(truth_dir)
    if (size := settings["size"]) < SPREAD_SIDE:
        raise ValueError(f"size={size} is too small: expected at least {SPREAD_SIDE} px.")
    how = size, settings["seed"], settings["trap"]
    settings = {**settings, "code_sha256": code_digest(*_CODE)}
    rows = plan.to_dict("records")
    ours = {raw_dir / row["source"] for row in rows}
    ours |= {(raw_dir / rows[-1]["source"]).with_name(name) for name in unusable}
    anew = _claim(raw_dir, truth_dir, ours, settings)
    missing = [
        row
        for row in rows
        if anew
        or not all(map(_holds, [raw_dir / row["source"], *_label_paths(truth_dir, row["source"])]))
    ]
    jobs = (delayed(write_acquisition)(raw_dir, truth_dir, row, *how) for row in missing)
    done = Parallel(workers, return_as="generator")(jobs)
    list(tqdm(done, "simulate", len(missing), unit="acquisition", disable=no_bar()))
    truth_path = truth_dir / "cells.csv"
    cells = pd.concat([_cells_of(row, *how) for row in rows])
    if not truth_path.exists() or truth_path.read_bytes() != cells.to_csv(index=False).encode():
        write_csv(truth_path, cells)
    _write_unusable(raw_dir, rows[-1], unusable, anew)
    # Only now: had the work stopped half way, files of the old code would pass for new ones.
    write_json(truth_dir / "settings.json", settings)
    return pd.read_csv(truth_path)


def _holds(path: Path) -> bool:
    """Tell whether a file is there and not empty, as a power loss can leave it."""
    return path.exists() and path.stat().st_size > 0


def _write_unusable(raw_dir: Path, acquisition: Mapping, names: Sequence[str], anew: bool) -> None:
    """Add what any raw folder holds: a copy, a transfer cut short, a test exposure, and notes."""
    source = raw_dir / acquisition["source"]
    content = source.read_bytes()
    copy, cut, notes, test = _UNUSABLE
    files = {
        copy: content,
        cut: content[: 2 * len(content) // 3],
        notes: b"Simulated: notes taken beside the microscope\n",
    }
    wanted = [name for name in names if anew or not _holds(source.with_name(name))]
    for name in files.keys() & wanted:
        with atomic_path(source.with_name(name)) as temporary:
            temporary.write_bytes(files[name])
    if test in wanted:
        write_oir(
            source.with_name(test),
            np.full((1, 64, 64), 1000, np.uint16),
            channel_names=SLICE_NAMES[:1],
            acquired_at=acquisition["acquired_at"],
            **_OF_EVERY_FILE,
        )


def _claim(raw_dir: Path, truth_dir: Path, ours: set[Path], settings: dict) -> bool:
    """Refuse folders that another demo or anybody else wrote in; tell whether to make all anew."""
    path, found = truth_dir / "settings.json", {}
    if path.exists():
        try:
            # settings that do not name a trap are older than the traps
            found = {"trap": "none"} | json.loads(path.read_text())
        except ValueError:
            print(f"{shown_path(path)} is damaged: the demo is made anew.")
    asked = {name: value for name, value in settings.items() if name != "code_sha256"}
    if differing := [name for name in asked if found and found.get(name) != asked[name]]:
        raise ValueError(
            f"{shown_path(truth_dir)} belongs to a demo with other {', '.join(differing)} "
            f"({found}): choose other folders, or delete this one and its raw folder."
        )
    marked = path.exists()
    foreign = [
        file
        for folder in ([raw_dir] if marked else [raw_dir, truth_dir])
        for file in sorted(folder.rglob("*"))
        if not file.is_dir()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        and not (marked and file in ours)
    ]
    if foreign:
        raise ValueError(
            f"{shown_path(foreign[0])} and {len(foreign) - 1} other files were not made by the "
            "simulator, which writes only into folders of its own. For your own data set "
            "simulate_demo to false; for the demo choose another study, or an empty folder."
        )
    if not found:
        write_json(path, settings)
    return found.get("code_sha256") != settings["code_sha256"]


def main() -> None:
    """Run `write_demo` from the command line."""
    prog = "python -m hsc_utils.simulation.simulate"
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    for folder in ("--raw-dir", "--truth-dir"):
        parser.add_argument(folder, type=from_caller, required=True, help="folder to write")
    for name, count in DEMO_COUNTS.items():
        parser.add_argument(f"--{name.lower()}", type=int, default=count, help="acquisitions")
    parser.add_argument("--size", type=int, default=400, help="side of a field, px")
    parser.add_argument("--days", type=int, default=10, help="acquisition days")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--trap", choices=TRAPS, default="none", help="shortcut to plant")
    options = vars(parser.parse_args())
    counts = {name: options.pop(name.lower().replace("-", "_")) for name in DEMO_COUNTS}
    raw_dir, truth_dir = options.pop("raw_dir"), options.pop("truth_dir")
    cells = write_demo(raw_dir, truth_dir, counts, **options)
    print(f"{shown_path(raw_dir)}: {sum(counts.values())} acquisitions, {len(cells)} cells")


if __name__ == "__main__":
    main()
