"""The page "What we planted": the simulator's own constants, drawn and turned into ceilings.

``python -m hsc_utils.simulation.planted TRUTH_DIR`` writes ``planted.md`` and its pictures beside
the truth of a simulated study.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.metrics import roc_auc_score

from hsc_utils import drawing
from hsc_utils.files import atomic_path, from_caller, from_root, shown_path
from hsc_utils.provenance import SIMULATED_NOTE
from hsc_utils.simulation.optics import day_light, render
from hsc_utils.simulation.specimen import (
    DENSITY,
    LIGHT,
    PIXEL_SIZE_UM,
    TRAITS,
    Trait,
    draw_traits,
    generator,
)

_FIELD_PX = 96  # side of the example pictures
_PICTURE_DPI = 200  # twice that of a screen
_PARTS = {"inside": "white", "nucleus": "#E69F00", "granules": "#56B4E9"}  # colours of outlines
_CEILING = """
```{{list-table}} Ceilings: the AUROC (mean of one-vs-rest) that the true traits allow
:header-rows: 1

* - what is seen
  - all
  - {classes}
{rows}
```"""


def ceilings(cells: int = 20000, seed: int = 0) -> pd.DataFrame:
    """Say how well the classes could be told apart by what was planted.

    Cells are drawn from `specimen.TRAITS`, in the proportions of the fields' densities, and
    classified by a quadratic discriminant, which is all but the best possible rule for traits
    drawn normally and independently. Nobody who sees only pictures need reach it: it knows the
    traits exactly, of cells out of focus too.

    Parameters
    ----------
    cells : int
        Cells drawn for the fit, and again for the scores.
    seed : int
        Of the drawing.

    Returns
    -------
    DataFrame
        AUROC in [0, 1]: one row per slice alone, all slices, and each trait alone; columns ``all``
        (mean of one-vs-rest) and the classes.
    """
    fitted, judged = (_drawn(cells, generator(seed, "ceilings", k)) for k in ("fit", "score"))
    seen = {f"{name} alone": {light} for name, light in LIGHT.items()}
    seen["all three slices"] = set(LIGHT.values())
    columns = {
        what: [n for n, t in TRAITS.items() if _shows(t, light)] for what, light in seen.items()
    }
    columns |= {f"only: {trait.meaning}": [name] for name, trait in TRAITS.items()}
    return pd.DataFrame({what: _aurocs(fitted, judged, of) for what, of in columns.items()}).T


def _drawn(cells: int, rng: np.random.Generator) -> pd.DataFrame:
    """Draw cells of every class, as many as the fields' densities give."""
    total = sum(DENSITY.values())
    return pd.concat(
        draw_traits(rng, name, cells * density // total).assign(**{"class": name})
        for name, density in DENSITY.items()
    )


def _shows(trait: Trait, light: set[str]) -> bool:
    """Tell whether a trait shows to somebody who sees this light."""
    return trait.seen_in <= light if trait.together else bool(trait.seen_in & light)


def _aurocs(fitted: pd.DataFrame, judged: pd.DataFrame, columns: list[str]) -> dict[str, float]:
    """Score the best rule on some traits, for all classes and each."""
    rule = QuadraticDiscriminantAnalysis().fit(fitted[columns], fitted["class"])
    ranked = pd.DataFrame(rule.predict_proba(judged[columns]), columns=rule.classes_)
    by_class = {name: roc_auc_score(judged["class"] == name, ranked[name]) for name in DENSITY}
    return {"all": float(np.mean(list(by_class.values())))} | by_class


def draw_examples() -> drawing.Figure:
    """Draw a typical cell of each class in every slice, its nucleus and granules outlined."""
    slices, classes = list(LIGHT), list(DENSITY)
    figure, panels = drawing.picture_grid(
        len(classes), len(slices) + 1, size=(8, 6.5), labels=classes
    )
    colours, window = drawing.class_colours(classes), slice(20, 76)
    for number, (row, name) in enumerate(zip(panels, classes, strict=True)):
        traits = {key: trait.means[number] for key, trait in TRAITS.items()}
        place = {"source": f"{name}/example", "label": 1, "y": 48.0, "x": 48.0, "focus_um": 0.0}
        pixels, parts = render(pd.DataFrame([place | traits]), len(slices), 0, _FIELD_PX, 2)
        shown = [drawing.stretched(plane)[window, window] for plane in pixels]
        titles = [*slices, "What was planted, on DIC"]
        for panel, plane, title in zip(row, [*shown, shown[0]], titles, strict=True):
            panel.imshow(plane, cmap="gray")
            panel.set_title(title, fontsize=9)
        for part, colour in _PARTS.items():
            outline = (parts[part] > 0)[window, window].astype(float)
            row[-1].contour(outline, [0.5], colors=colour, linewidths=1.3)
        bar_px = 5 / PIXEL_SIZE_UM
        row[0].plot([4, 4 + bar_px], [52, 52], color="white", lw=2)
        row[0].text(4 + bar_px / 2, 50, "5 µm", color="white", fontsize=8.5, ha="center")
        row[0].texts[0].set(color=colours[name], fontweight="bold", fontsize=10)
    # white would not show on the page
    lines = [Line2D([], [], color=colour) for colour in ("0.4", *list(_PARTS.values())[1:])]
    look = {"loc": "outside upper center", "ncols": 3, "frameon": False, "fontsize": 9.5}
    figure.legend(lines, ["cell (white)", "nucleus", "granules"], title="Outlines", **look)
    glow = dict(zip(classes, TRAITS["glow_in_spots"].means, strict=True))
    said = ", ".join(f"{share:.0%} in {name}" for name, share in glow.items())
    alt = (
        f"A typical simulated cell of each class ({', '.join(classes)}) in {', '.join(slices)}, "
        "each slice stretched for the eye, and on DIC the outlines of cell, nucleus and granules. "
        f"Share of the autofluorescence in bright spots: {said}."
    )
    return drawing.finish(figure, SIMULATED_NOTE, alt)


def draw_distributions(truth: pd.DataFrame) -> drawing.Figure:
    """Draw how each trait is spread over the true cells of a study, by class."""
    colours = drawing.class_colours(list(DENSITY))
    rows = -(-(len(TRAITS) + 1) // 3)  # one place is left for the legend
    figure, panels = drawing.new_figure(rows, 3, size=(8, 2.4 * rows + 0.2))
    said = []
    for panel, (name, trait) in zip(panels.flat, TRAITS.items(), strict=False):
        bins = np.linspace(*np.percentile(truth[name], [0.2, 99.8]), 26)
        of_classes = [truth.loc[truth["class"] == one, name] for one in DENSITY]
        for values, colour in zip(of_classes, colours.values(), strict=True):
            fill = {"histtype": "stepfilled", "color": colour, "alpha": 0.25}
            panel.hist(values, bins, density=True, **fill)
            panel.hist(values, bins, density=True, histtype="step", color=colour, lw=1.6)
        panel.set_xlabel(trait.meaning[:1].upper() + trait.meaning[1:], fontsize=8.5)
        panel.set_yticks([])
        means = (f"{values.mean():.3g}" for values in of_classes)
        said.append(f"{trait.meaning} {', '.join(means)}")
    for panel in panels[:, 0]:
        panel.set_ylabel("Frequency of cells", fontsize=9)
    for panel in panels.flat[len(TRAITS) :]:
        panel.axis("off")
    patches = [Patch(color=colour, label=name) for name, colour in colours.items()]
    panels.flat[-1].legend(handles=patches, loc="center", frameon=False, fontsize=10)
    alt = f"Histograms of each planted trait by class. Means of {', '.join(DENSITY)}: "
    return drawing.finish(figure, SIMULATED_NOTE, f"{alt}{'; '.join(said)}.")


def page(truth: pd.DataFrame, settings: dict, alts: Mapping[str, str]) -> str:
    """Write the page, in Markdown; `alts` say what is seen on its pictures, cells and traits."""
    table = ceilings()
    rows = "\n".join(
        f"* - {what}\n" + "\n".join(f"  - {value:.3f}" for value in row)
        for what, row in table.iterrows()
    )
    gains = pd.DataFrame(
        [
            day_light(settings["seed"], day)["gains"][: len(LIGHT)]
            for day in range(settings["days"])
        ],
        index=range(1, settings["days"] + 1),
        columns=list(LIGHT),
    )
    size = truth.groupby("class").size()
    fields = truth.groupby("class")["source"].nunique()
    per_field = (size / fields).reindex(list(DENSITY))
    density = ", ".join(f"{name} {value:.1f}" for name, value in per_field.items())
    lines = {
        name: ", ".join(f"{n} {m:g}" for n, m in zip(DENSITY, trait.means, strict=True))
        for name, trait in TRAITS.items()
    }
    planted = "\n".join(
        f"| {trait.meaning} | {lines[name]} | {trait.spread:g} | {_light_in_words(trait)} |"
        for name, trait in TRAITS.items()
    )
    return f"""# What we planted

:::{{warning}}
{SIMULATED_NOTE}: everything on this page was made up.
:::

A demo can show that a method works only if it is known what there is to find. This page is computed
from the constants of the simulator (`hsc_utils/simulation/specimen.py`) and from the truth that it
wrote beside the acquisitions; no step of the analysis reads either, except to be scored.

## Three cells

```{{figure}} planted_cells.png
:alt: {alts["cells"]}
:width: 100%

A typical cell of each class, each slice stretched for the eye. Right: where nucleus and granules
were put. Grad-CAM is scored against exactly these outlines in notebook 06.
```

## What tells the classes apart

| trait | mean by class | standard deviation | shows in |
|---|---|--:|---|
{planted}

```{{figure}} planted_traits.png
:alt: {alts["traits"]}
:width: 100%

Each trait over all {len(truth):,} true cells of {truth["source"].nunique()} acquisitions.
```

Every cell has as many large granules as bright spots. Neither number differs between classes; what
differs is how many of the spots *are* large granules, and that can be seen only where transmitted
light and autofluorescence are looked at together. Beside these traits the fields differ in density,
as in the paper: {density} cells per field. Total autofluorescence, focus, debris, illumination and
noise are drawn alike for all classes.

## How well could anybody do?
{_CEILING.format(classes=f"{chr(10)}  - ".join(DENSITY), rows=rows)}

The ceiling is the score of a logistic regression that knows every trait exactly, of cells out of
focus too; a model that sees pictures should not exceed it by more than chance. Single slices have
lower ceilings than all three together by construction, so a comparison that does not find this is
wrong.

## Days

Each acquisition day has a lamp and a camera gain of its own; classes are spread evenly over days.

{gains.round(2).rename_axis("day").to_markdown()}

Gain of each slice relative to the average day. Illumination also falls off from a centre that moves
from day to day.

## What this simulation is not

It is not a model of blood stem cells. Its traits were chosen so that the analysis has something of
known size to find; nobody has measured that the real classes differ in them. Cells are smooth
solids in a clean medium; real preparations hold dead cells, clumps and scratches, and come from
mice that differ. A network
that does well here has shown that the chain of files, detection, training and explanation works,
and nothing about the paper's cells.
"""


def _light_in_words(trait: Trait) -> str:
    """Name the slices that show a trait."""
    if trait.together:
        return "transmitted light and autofluorescence together"
    if len(trait.seen_in) > 1:
        return "every slice"
    return "DIC and brightfield" if "transmitted" in trait.seen_in else "autofluorescence"


def write_page(truth_dir: str | Path) -> None:
    """Write ``planted.md``, ``planted_cells.png`` and ``planted_traits.png`` beside the truth."""
    truth_dir = from_root(truth_dir)
    truth = pd.read_csv(truth_dir / "cells.csv")
    settings = json.loads((truth_dir / "settings.json").read_text())
    if (trap := settings.get("trap", "none")) != "none":
        raise ValueError(f"{shown_path(truth_dir)} holds the trap {trap}: the page is of the demo.")
    pictures = {"cells": draw_examples(), "traits": draw_distributions(truth)}
    for name, figure in pictures.items():
        with atomic_path(truth_dir / f"planted_{name}.png") as temporary:
            figure.savefig(temporary, dpi=_PICTURE_DPI, format="png")
    with atomic_path(truth_dir / "planted.md") as temporary:
        alts = {name: figure.alt for name, figure in pictures.items()}
        temporary.write_text(page(truth, settings, alts))


if __name__ == "__main__":
    write_page(from_caller(sys.argv[1]))
