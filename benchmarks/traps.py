"""Claim: the audit of shortcuts rings where a shortcut was planted, and stays silent elsewhere.

Run `python benchmarks/traps.py FOLDER --seeds 10`, in as many processes as wanted: each takes
studies that no other works on, and finished ones are kept. Each trap of the simulator is planted
alone in a small study for each seed; the study goes through the steps with fixed settings, and
is audited as in notebook 07. When all are there, ``book/traps.csv`` (every answer), its figures
and the page ``book/traps.md`` are written.
"""

import argparse
import os
import platform
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import nn
from torchvision.models._api import WeightsEnum, register_model

from hsc_utils import (
    detection,
    drawing,
    explanation,
    manifest,
    preparation,
    shortcuts,
    simulation,
    training,
)
from hsc_utils.files import ROOT, atomic_path, from_caller, write_csv
from hsc_utils.provenance import SIMULATED_NOTE, code_digest, git_commit
from hsc_utils.shortcuts.verdicts import ALARM, CANNOT, QUESTIONS
from hsc_utils.study import Run, Study

TRAPS = ("clean", "day", "background", "density", "border")
FIELDS, SIZE, DAYS = 72, 192, 18  # of a class; pixels; of a study
FRACTIONS = (0.5, 0.15, 0.35)
DETECTION = detection.DetectionSettings(min_sigma=8, max_sigma=11.5, threshold=0.3)
# By trap, the questions that must ring, and those that may: what is planted shows there too, but
# whether a network leans on it is its own affair, and days so many have no brightness in common
# that a linear rule could find.
_BACKGROUND = {"surroundings", "surroundings_trained"}
_LEANING = {"surroundings_seen", "background_swapped", "added"}
MUST = {
    "clean": {"cell": set(), "image": set()},
    "day": {
        "cell": {"surroundings_trained", "day", "day_held_out"},
        "image": {"surroundings_trained", "day"},
    },
    "background": {"cell": _BACKGROUND, "image": _BACKGROUND},
    "density": {"cell": {"count"}, "image": {"count"}},
    "border": {"cell": {"border"}, "image": {"surroundings_trained"}},
}
MAY = {
    "clean": set(),
    "day": _BACKGROUND | _LEANING,
    "background": _LEANING,
    "density": {"same_number", "added"},
    "border": _BACKGROUND | _LEANING,
}
PACKAGES = ("torch", "numpy", "scikit-learn", "scipy", "opencv-python-headless")
_AUDIT = ("audit", "verdicts", "views", "painting", "retrain", "features", "baselines")
ROOMS = (
    *(f"shortcuts.{room}" for room in _AUDIT),
    *(f"simulation.{room}" for room in ("simulate", "specimen", "optics", "traps")),
)
NETWORK = "four_convolutions"
RECIPE = {
    "architecture": NETWORK,
    "weights": "none",
    "schedule": "one-cycle",
    "precision": "float32",
    "batch_norm": "clean",
    "max_epochs": 20,
    "patience": 20,
}
RECIPES = {
    "cell": RECIPE | {"input_size": 64, "batch_size": 32, "learning_rate": 0.01},
    "image": RECIPE | {"input_size": 72, "batch_size": 16, "learning_rate": 0.005},
}


class NoWeights(WeightsEnum):
    """Nobody has published any."""


@register_model(NETWORK)
def four_convolutions(weights: NoWeights | None = None) -> nn.Module:
    """Build a network that learns from some hundred samples within seconds; it has a head."""
    layers, seen = [], 3
    for width in (24, 48, 64, 96):
        layers += [nn.Conv2d(seen, width, 3 if seen > 3 else 5, 2, 1 if seen > 3 else 2)]
        layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        seen = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(seen, 1000))


four_convolutions.__module__ = "torchvision.models.small"  # `build_model` takes torchvision's


def study_seed(trap: str, seed: int) -> int:
    """Give every study numbers of its own."""
    return 100 * seed + TRAPS.index(trap)


def make_study(folder: Path, trap: str, seed: int) -> Study:
    """Plant a trap in a new study, and take it through steps 01 and 02."""
    paths, number = Study(folder), study_seed(trap, seed)
    options = {"size": SIZE, "days": DAYS, "seed": number, "workers": 1, "trap": trap}
    classes = list(simulation.DEMO_COUNTS)
    simulation.write_demo(paths.raw, paths.truth, dict.fromkeys(classes, FIELDS), **options)
    preparation.prepare_images(
        paths.raw,
        paths.prepared,
        dataset=f"trap: {trap}",
        class_names=classes,
        fractions=FRACTIONS,
        seed=number,
        workers=1,
    )
    # mirrored at the border: otherwise a third of the cells would be lost
    detection.extract_cells(paths.prepared, paths.cells, DETECTION, border="reflect", workers=1)
    return paths


def train_one(paths: Study, table: pd.DataFrame, arrays: np.ndarray) -> Run:
    """Train one network from a random start for a fixed number of epochs."""
    level = "cell" if "cell_id" in table else "image"
    run = paths.run(level, NETWORK, 0)
    settings = training.TrainingSettings(**RECIPES[level])
    training.train(table, arrays, run.directory, settings)
    return run


def audit_study(paths: Study) -> pd.DataFrame:
    """Train a network on cells and one on images, and ask them all that notebook 07 asks."""
    images, cells = manifest.read_images(paths.prepared), manifest.read_cells(paths.cells)
    patches = detection.read_patches(paths.cells, cells)
    size, folder = RECIPES["image"]["input_size"], paths.shortcuts
    arrays = training.image_arrays(images, paths.prepared, paths.cache, size)
    masks = explanation.find_masks(paths, cells, None)
    without = shortcuts.write_surroundings(paths, images, cells, patches, masks, size, folder)
    runs = train_one(paths, cells, patches), train_one(paths, images, arrays)
    cell = shortcuts.subject_of(runs[0], cells, patches, without, paths)
    image = shortcuts.subject_of(runs[1], images, arrays, without, paths)
    of_cells = shortcuts.predict_cell_views(cell, without, paths, masks, 0)
    of_images = shortcuts.predict_image_views(image, without)
    findings = [shortcuts.ask_views(cell, of_cells)[0], shortcuts.ask_views(image, of_images)[0]]
    for subject in (cell, image):
        findings += [shortcuts.ask_trivial(subject)[0], shortcuts.ask_where(subject, cells)[0]]
        findings.append(shortcuts.ask_surroundings(subject, folder))
    table = shortcuts.closing_table(*findings, shortcuts.ask_days(cell, folder))
    reached = {run.level: run.scores["test"]["auroc"] for run in runs}
    return table.assign(network_auroc=table["level"].map(reached))


def study_file(folder: Path, trap: str, seed: int) -> Path:
    """Name the file of a finished study."""
    return folder / f"{trap}_{seed}.csv"


def finished(folder: Path, trap: str, seed: int, code: str) -> bool:
    """Tell whether a study was audited by this code."""
    file = study_file(folder, trap, seed)
    return file.exists() and (pd.read_csv(file)["code"] == code).all()


def work_on(folder: Path, trap: str, seed: int, code: str) -> None:
    """Audit a study that is not finished and that no other process works on."""
    place = folder / f"{trap}_{seed}"
    try:
        with FileLock(f"{place}.lock", timeout=0):
            if finished(folder, trap, seed, code):
                return
            shutil.rmtree(place, ignore_errors=True)  # of other code, or cut off
            table = audit_study(make_study(place, trap, seed)).drop(columns=["question", "advice"])
            write_csv(study_file(folder, trap, seed), table.assign(trap=trap, seed=seed, code=code))
            shutil.rmtree(place)
            alarms = table[table["verdict"] == ALARM]
            rung = ", ".join(alarms["level"] + " " + alarms["key"]) or "silent"
            print(f"{trap}, seed {seed}: {rung}", flush=True)
    except Timeout:
        return


def expected(row: pd.Series) -> str:
    """Say whether an alarm ``must`` ring, ``may``, or is ``false``."""
    if row["key"] in MUST[row["trap"]][row["level"]]:
        return "must"
    return "may" if row["key"] in MAY[row["trap"]] else "false"


def draw(rows: pd.DataFrame) -> Figure:
    """Draw how often each question rang, by trap, at both levels; right alarms are outlined."""
    figure, panels = drawing.new_figure(2, 1, size=(11, 7.2))
    for panel, (level, of_level) in zip(panels, rows.groupby("level"), strict=True):
        table = of_level.pivot_table("alarm", "trap", "key", sort=False).reindex(TRAPS)
        panel.imshow(table, cmap="Blues", vmin=0, vmax=1.25, aspect="auto")
        kinds = of_level.drop_duplicates(["trap", "key"]).set_index(["trap", "key"])["expected"]
        for y, trap in enumerate(table.index):
            for x, key in enumerate(table.columns):
                share, kind = table.loc[trap, key], kinds[trap, key]
                colour = "white" if share > 0.7 else "black"
                panel.text(x, y, f"{share:.0%}", ha="center", va="center", color=colour)
                if kind != "false":
                    line = {"must": "-", "may": ":"}[kind]
                    box = Rectangle((x - 0.46, y - 0.44), 0.92, 0.88, fill=False, ls=line, lw=1.8)
                    panel.add_patch(box)
        words = [key.replace("_", "\n") for key in table.columns]
        panel.set_xticks(range(len(words)), words, fontsize=8.5)
        panel.set_yticks(range(len(table)), table.index)
        panel.set_title(f"{level}s", loc="left")
        panel.tick_params(length=0)
    return drawing.finish(figure, SIMULATED_NOTE, "Traps by questions: how often each rang.")


def draw_days() -> Figure:
    """Draw one field of each of twelve days of the trap of days, by class, in equal grey."""
    classes = list(simulation.DEMO_COUNTS)
    figure, panels = drawing.picture_grid(len(classes), 4, size=(8, 6.2), labels=classes)
    with tempfile.TemporaryDirectory() as name:
        raw, truth = Path(name) / "raw", Path(name) / "truth"
        options = {"size": SIZE, "days": 4 * len(classes), "workers": 1, "trap": "day"}
        simulation.write_demo(raw, truth, dict.fromkeys(classes, 4), **options)
        for row, class_name in zip(panels, classes, strict=True):
            files = sorted((raw / class_name).rglob("field_*.oir"))
            for panel, file in zip(row, files, strict=True):
                plane = preparation.read_acquisition(file).slices[1]
                panel.imshow(plane, cmap="gray", vmin=500, vmax=4095)
                panel.set_title(file.parent.name, fontsize=9)
    return drawing.finish(figure, SIMULATED_NOTE, "Fields of four days of each class.")


def rates(rows: pd.DataFrame) -> dict[str, str]:
    """Count false alarms and misses, as ``n of m (share)``."""

    def counted(hits: pd.Series) -> str:
        return f"{hits.sum()} of {len(hits)} ({hits.mean():.1%})"

    of_study = rows.groupby(["trap", "seed"])
    trapped = rows["trap"] != "clean"
    right = (rows["alarm"] & (rows["expected"] != "false")).groupby([rows["trap"], rows["seed"]])
    overlooked = ~right.any().drop("clean")
    false = rows["expected"] == "false"
    clean = of_study["alarm"].any().loc["clean"]
    return {
        "false": counted(rows.loc[false, "alarm"]),
        "false where a trap lay": counted(rows.loc[false & trapped, "alarm"]),
        "clean studies with an alarm": counted(clean),
        "missed": counted(~rows.loc[rows["expected"] == "must", "alarm"]),
        "overlooked": counted(overlooked),
        "cannot": counted(rows["verdict"] == CANNOT),
    }


def scores(rows: pd.DataFrame) -> str:
    """Write, by trap, the networks' mean AUROC, and what holding days out takes from it."""
    network = rows.pivot_table("network_auroc", "trap", "level")
    held_out = rows[rows["key"] == "day_held_out"].groupby("trap")["estimate"].mean()
    lines = [
        f"| {trap} | {network.loc[trap, 'cell']:.2f} | {network.loc[trap, 'image']:.2f} "
        f"| {held_out[trap]:+.2f} |"
        for trap in TRAPS
    ]
    head = "| trap | AUROC, cells | AUROC, images | loss on days never seen, cells |"
    return "\n".join([head, "|---|--:|--:|--:|", *lines])


def page(rows: pd.DataFrame) -> str:
    """Write the page of the book, in Markdown."""
    found, seeds = rates(rows), rows["seed"].nunique()
    loss = rows[rows["key"] == "day_held_out"].groupby("trap")["estimate"].mean()["day"]
    of_cells = rows[rows["level"] == "cell"].groupby("trap")["network_auroc"].mean()
    seen, clean = of_cells["day"], of_cells["clean"]
    questions = "\n".join(
        f"- **{key.replace('_', ' ')}**: {QUESTIONS[key][0]}" for key in rows["key"].unique()
    )
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    return f"""# Does the audit ring?

:::{{admonition}} In short
:class: conclusion
- Yes: of the traps, {found["overlooked"]} were overlooked.
- Questions that rang where they should be silent: {found["false"]}; clean studies with any
  alarm: {found["clean studies with an alarm"]}.
- Questions that stayed silent where they must ring: {found["missed"]}.
:::

:::{{warning}}
{SIMULATED_NOTE}: every study on this page was made up, so that its shortcut is known.
:::

An audit that never rings is worth nothing, and neither is one that always does. So the simulator
planted one shortcut at a time, and the audit of notebook 07 was run on each study:

- **clean**: no shortcut; the classes differ in their cells alone, less than in the demo.
- **day**: every day holds one class, and days differ in lamp, camera and illumination.
- **background**: dust, and a gradient of the medium's glow, differ by class; the cells are those of
  the clean study's kind.
- **density**: fields of one class hold three times as many cells as those of another.
- **border**: the rim of the field is dark in one class and bright in another.

Each was made {seeds} times with other random numbers: {len(TRAPS) * seeds} studies of
{3 * FIELDS} fields of {SIZE} px on {DAYS} days, each with a small network for cells and one for
images.

```{{figure}} traps.png
:alt: A table of traps by questions, with the share of studies in which each question rang.
:width: 100%

Share of the studies in which a question rang an alarm. Solid outline: it must ring there. Dotted:
it may, as what was planted shows there too. Everything without an outline should be 0 %.
```

| | |
|---|---|
| questions that rang where they should be silent | {found["false"]} |
| … in studies with a trap | {found["false where a trap lay"]} |
| clean studies in which any question rang | {found["clean studies with an alarm"]} |
| questions that stayed silent where they must ring | {found["missed"]} |
| traps at which no right question rang | {found["overlooked"]} |
| answers "cannot be told" | {found["cannot"]} |

The questions:

{questions}

These are small studies: what a question misses in {3 * FIELDS} fields it may find in thousands. And
they hold the shortcuts that we thought of, planted strongly; a silent audit is no proof. Sizes,
strengths, and what must ring were settled on studies of seed 0, which is not among these.

## What a day can do to a score

```{{figure}} traps_days.png
:alt: Simulated fields of four days of each class, each day with a brightness of its own.
:width: 85%

The trap of days: one field of each of twelve days, four per class, in brightfield, all drawn with
the same grey values. No day
holds two classes, so whoever knows the day knows the class.
```

{scores(rows)}

Look at the line *day*. Its networks reach {seen:.2f} on cells of images that they never saw; in the
clean studies, whose cells differ as much, they reach {clean:.2f}. Nothing in the score or in a
confusion matrix warns of it. But where whole days are held out, the same network on as many images
loses {loss:.2f}: it had learnt the days. Where each class is sorted and imaged on days of its own,
this is what to expect, and only days held out can show it.

---
Made by `make traps` with seeds 1 to {seeds}; every answer is in `book/traps.csv`. Code
`{rows["code"].iloc[0][:12]}`, commit `{git_commit()[:12]}`, Python {platform.python_version()},
{versions}.
"""


def write_results(folder: Path, seeds: int, target: Path) -> None:
    """Put the answers of all studies together, and write table, figure and page."""
    files = [study_file(folder, trap, seed) for trap in TRAPS for seed in range(1, seeds + 1)]
    rows = pd.concat(map(pd.read_csv, files), ignore_index=True)
    rows["alarm"] = rows["verdict"] == ALARM
    rows["expected"] = rows.apply(expected, axis=1)
    first = ["trap", "seed", "level", "key", "verdict", "expected"]
    written = rows[[*first, *rows.columns.difference([*first, "alarm"], sort=False)]].round(4)
    write_csv(target / "traps.csv", written)
    for name, figure in {"traps": draw(rows), "traps_days": draw_days()}.items():
        with atomic_path(target / f"{name}.png") as temporary:
            figure.savefig(temporary, dpi=110, format="png")
    with atomic_path(target / "traps.md") as temporary:
        temporary.write_text(page(rows))


def main() -> None:
    """Audit what is not finished; write the results when all is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=from_caller, help="folder for studies and their answers")
    parser.add_argument("--seeds", type=int, default=10, help="studies a trap")
    parser.add_argument("--target", type=from_caller, default=ROOT / "book")
    options = parser.parse_args()
    os.environ["TQDM_DISABLE"] = "1"
    folder, target, code = Path(options.folder), Path(options.target), code_digest(*ROOMS)
    folder.mkdir(parents=True, exist_ok=True)
    studies = [(trap, seed) for seed in range(1, options.seeds + 1) for trap in TRAPS]
    for trap, seed in studies:
        if not finished(folder, trap, seed, code):
            work_on(folder, trap, seed, code)
    if all(finished(folder, *study, code) for study in studies):
        write_results(folder, options.seeds, target)


if __name__ == "__main__":
    main()
