"""A page of the book to look into one model's results: a threshold to move, cells to point at.

Bokeh draws it from numbers that lie in the page, and its script lies beside the page: nothing is
loaded from outside. Until it has drawn, or where scripts are off, the page shows two pictures of
the same. All numbers are computed here; the page's own script looks them up.
"""

import itertools
import json
import shutil
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

import bokeh
import cv2
import numpy as np
import pandas as pd
from bokeh.embed import json_item
from bokeh.models import (
    CDSView,
    ColumnDataSource,
    GlyphRenderer,
    GroupFilter,
    HoverTool,
    IntersectionFilter,
    Span,
    TapTool,
    Title,
)
from bokeh.plotting import figure
from numpy.typing import NDArray
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.preprocessing import normalize

from hsc_utils import detection, drawing, manifest, paper, provenance, training
from hsc_utils.files import shown_path
from hsc_utils.metrics import probability_matrix
from hsc_utils.study import Run, Study, model_words

POINTS = 500  # test cells drawn at most
_TRAINING = 1000  # training cells of each class looked at, at most
_SIDE, _ACROSS, _ENLARGED = 48, 20, 3  # px of a patch, patches in a row of the sheet, on the page
_ENDS = (0.001, 0.002, 0.005)
THRESHOLDS = np.round([0, *_ENDS, *np.arange(0.01, 1, 0.01), *np.subtract(1, _ENDS)[::-1], 1], 3)
_START = 0.5
_DPI = 200  # twice that of a screen

# label and title of the two figures
EXPLORED = (
    ("fig-explore-roc", "An operating point to move"),
    ("fig-explore-features", "Cells where the network puts them"),
)
# The book loads every *.js below _static on every page, and this one is for one page alone.
_SCRIPT = "vendor/bokeh.min.mjs"
_SHEET = "explore_cells.jpg"

_STYLE = """
.explored { background: #fff; border-radius: 0.25rem; color: #222; padding: 0.75rem; }
.explored .plots { display: flex; flex-wrap: wrap; gap: 1rem; margin: 0.5rem 0; }
.explored .plots > div { flex: 1 1 270px; max-width: 720px; min-width: 0; }
.explored .plots > .chosen { flex: 0 1 180px; }
.explored .controls { align-items: center; display: flex; flex-wrap: wrap; gap: 0.4rem 1.2rem; }
.explored label { align-items: center; display: flex; flex-wrap: wrap; gap: 0.4rem; margin: 0;
  max-width: 100%; }
.explored :is(select, input) { accent-color: #0b5394; background: #fff; color: #222;
  max-width: 100%; }
.explored select { border: 1px solid #767676; border-radius: 0.2rem; padding: 0.2rem; }
.explored input[type="range"] { width: 18rem; }
.explored .swatch { border-radius: 50%; height: 0.8em; width: 0.8em; }
.explored table { color: #222; font-size: 0.85em; margin: 0.5rem 0; }
.explored :is(th, td) { background: #fff; border: 1px solid #ccc; color: #222;
  padding: 0.2rem 0.6rem; text-align: right; }
.explored p { color: #222; margin: 0.5rem 0 0; overflow-wrap: anywhere; text-align: left;
  white-space: pre-line; }
"""

_BEHAVIOUR = """
async function explore() {
  if (!window.Bokeh) return; // the pictures stay
  const numbers = document.getElementById("explored-numbers").textContent;
  const { thresholds, classes, cells, plots } = JSON.parse(numbers);
  const blocks = [...document.querySelectorAll(".explored")];
  const shownBy = (block) => document.getElementById(block.dataset.replaces);
  for (const block of blocks) {
    shownBy(block).prepend(block);
    block.hidden = false;
  }
  await Promise.all(plots.map((plot) => Bokeh.embed.embed_item(plot)));
  for (const block of blocks) {
    const picture = shownBy(block).querySelector(":scope img");
    (picture.closest(".scrolls, a") ?? picture).style.display = "none";
  }
  const model = (name) =>
    Bokeh.documents.map((drawn) => drawn.get_model_by_name(name)).find(Boolean);
  const field = (name) => document.getElementById(`explored-${name}`);

  function move() {
    const name = field("class").value, at = Number(field("threshold").value);
    const { sensitivity, specificity, called } = classes[name].points[at];
    field("threshold").setAttribute("aria-valuetext", thresholds[at]);
    field("said").textContent =
      `Called ${name} from a probability of ${thresholds[at]}: sensitivity ` +
      `${sensitivity.toFixed(3)}, specificity ${specificity.toFixed(3)}.`;
    classes[name].total.forEach((total, row) => {
      field(`called-${row}`).textContent = called[row];
      field(`rest-${row}`).textContent = total - called[row];
    });
    model("operating").data = { x: [1 - specificity], y: [sensitivity] };
    model("threshold").location = thresholds[at];
    for (const other of Object.keys(classes))
      model(`curve ${other}`).glyph.line_width = other === name ? 3 : 1;
    const strip = model("strip cells");
    if (strip.data.shown !== strip.data[`p_${name}`])
      strip.data = { ...strip.data, shown: strip.data[`p_${name}`] };
    model("strip axis").axis_label = `Probability of ${name}`;
  }
  for (const name of ["class", "threshold"]) field(name).addEventListener("input", move);
  move();

  const scattered = model("scattered cells");
  function choose(index) {
    const { said, left, top } = cells[index];
    field("cell").value = index;
    field("card").textContent = said;
    field("patch").style.backgroundPosition = `-${left}px -${top}px`;
    model("chosen").data = { x: [scattered.data.x[index]], y: [scattered.data.y[index]] };
  }
  field("cell").addEventListener("input", () => choose(field("cell").value));
  scattered.selected.properties.indices.change.connect(() => {
    if (scattered.selected.indices.length) choose(scattered.selected.indices[0]);
  });
  choose(field("cell").value);
  for (const box of document.querySelectorAll(".explored input[type=checkbox]"))
    box.addEventListener("input", () => {
      for (const part of ["training", "right", "wrong"])
        model(`${part} ${box.value}`).visible = box.checked;
    });
}
if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", explore);
else explore();
"""
_PATCH = (
    f"width: {_SIDE * _ENLARGED}px; height: {_SIDE * _ENLARGED}px; "
    f"background: url(_static/{_SHEET}) 0 0 / {_SIDE * _ENLARGED * _ACROSS}px"
)
_TOOLTIP = f"""
<div style="width: 150px">
<div style="{_PATCH}; background-position: -@{{left}}px -@{{top}}px"></div>
<div style="color: #222; overflow-wrap: anywhere; white-space: pre-line">@{{said}}</div>
</div>
"""
_PAGE = """# Look into the results

$warning

This page lets you move and point at what notebook 04 shows as pictures: what $model makes of the
$cells cells of the test subset. Where scripts are off, it shows two pictures of the same.

## How sure is sure enough?

Whoever sorts cells by a network's probability of a class chooses a threshold. A low one misses few
cells of the class (high {term}`sensitivity`) and takes in many others (low {term}`specificity`);
the {term}`ROC curve` holds all such bargains.

:::{figure} explore_roc.png
:name: fig-explore-roc
:width: 520px
:alt: $roc_alt

**An operating point to move.** With class and threshold move the point on the curve and the line
through the test cells, which lie at their probability of that class. What lies right of the line is
called so; the table counts it by true class, and under the cursor appears the cell. A threshold
chosen here flatters: it was fitted to the test cells, and one for use is chosen on the validation
subset.
:::

## Which cells look alike to the network?

The network's last layer weighs $size features of each cell. Below, each cell's features are scaled
to length 1, so that what is seen counts and not how strongly; the two directions in which they vary
most among training cells (PCA) hold $share of that variance.

:::{figure} explore_features.png
:name: fig-explore-features
:width: 700px
:alt: $features_alt

**Cells where the network puts them.** Under the cursor, or chosen from the list, appear a cell's
patch, stretched for the eye, its name and its probabilities; crosses are cells called wrongly,
coloured by their true class, and pale dots are training cells. Shown: ${some}$cells test cells.
This is a shadow of $size dimensions on two: cells that meet here may lie far apart. The features
were learnt to part these classes, so it proves nothing that training cells part.
:::

````{raw} html
<style>$style</style>
<div class="explored" data-replaces="fig-explore-roc" hidden>
$threshold
<div class="plots"><div id="explored-roc" role="group" aria-label="ROC curves"></div>
<div id="explored-strip" role="group" aria-label="Test cells by their probability"></div></div>
</div>
<div class="explored" data-replaces="fig-explore-features" hidden>
$choice
<div class="plots"><div id="explored-features" role="group" aria-label="Test cells by feature">
</div><div class="chosen"><div id="explored-patch" style="$patch"></div>
<p id="explored-card" role="status"></p></div></div>
</div>
<script type="application/json" id="explored-numbers">$numbers</script>
<script src="_static/$script" defer></script>
<script>$behaviour</script>
````
"""
_SIGNS = "Test cells; crosses: wrong; pale: training cells"


def write_explorer(study: Study, run: Run, folder: Path) -> Path | None:
    """Write the page ``explore.md`` about a run on cells, and the files that it needs.

    Parameters
    ----------
    study : Study
        Whose cells the run was trained on.
    run : Run
        A run on cells. Its features are computed anew: seconds to minutes without a GPU.
    folder : path
        Pictures are written beside the page, and patches below ``_static``. The book that it
        joins needs Bokeh's script, too (`copy_script`).

    Returns
    -------
    Path or None
        The page; None, and nothing is written, where the run is not of cells, is not finished,
        or has no test cells of two classes.
    """
    if run.level != "cell" or run.failure or "test" not in run.scores:
        return None
    if not (curves := training.curves(run)):
        return None
    names = paper.class_order(run.config.class_names)
    colours = drawing.class_colours(names)
    curves = {name: curves[name] for name in names if name in curves}
    cells = manifest.read_cells(study.cells)
    patches, note = detection.read_patches(study.cells, cells), provenance.data_note(cells)
    samples = _samples(study, run, cells)
    test = samples[samples["split"] == "test"]
    learnt = _draw(samples[samples["split"] == "train"], _TRAINING * len(names))
    shown = place(_draw(test, POINTS), names)
    shares, size = _project(run, learnt, shown, patches)
    points = operating_points(test, names)

    (folder / "_static").mkdir(exist_ok=True)
    sheet = Image.fromarray(contact_sheet(np.asarray(patches[shown["row"].to_numpy()])))
    sheet.save(folder / "_static" / _SHEET, quality=88, subsampling=0, optimize=True)
    pictures = {
        "roc": _roc_picture(curves, points, colours, note),
        "features": _features_picture(learnt, shown, colours, shares, note),
    }
    for name, picture in pictures.items():
        picture.savefig(folder / f"explore_{name}.png", dpi=_DPI)
    plots = {
        "roc": _roc_plot(curves, colours, note),
        "strip": _strip_plot(shown, colours, note),
        "features": _features_plot(learnt, shown, colours, shares, note),
    }
    numbers = {
        "thresholds": THRESHOLDS.tolist(),
        "classes": _looked_up(points, test, names),
        "cells": shown[["said", "left", "top"]].to_dict("records"),
        "plots": [json_item(plot, f"explored-{name}") for name, plot in plots.items()],
    }
    told = {
        "model": f"{model_words(run.model)}, seed {run.seed}",
        "warning": f":::{{warning}}\n{note}.\n:::" if note else "",
        "cells": len(test),
        "some": "" if len(shown) == len(test) else f"{len(shown)} of ",
        "size": f"{size:,}",
        "share": f"{sum(shares):.0%}",
        "threshold": _threshold_controls(curves, names),
        "choice": _cell_controls(shown, colours),
        # no text may end the script that holds it
        "numbers": json.dumps(numbers, separators=(",", ":")).replace("<", "\\u003c"),
    }
    # options of a directive are YAML: a text in quotes keeps its colons and number signs
    told |= {f"{name}_alt": json.dumps(p.alt, ensure_ascii=False) for name, p in pictures.items()}
    fixed = {"style": _STYLE, "patch": _PATCH, "script": _SCRIPT, "behaviour": _BEHAVIOUR}
    page = folder / "explore.md"
    page.write_text(Template(_PAGE).substitute(told | fixed))
    return page


def _samples(study: Study, run: Run, cells: pd.DataFrame) -> pd.DataFrame:
    """Join a run's predictions with the rows of their patches."""
    rows = cells[["cell_id", "row"]].rename(columns={"cell_id": "id"})
    samples = run.predictions.merge(rows, on="id", validate="one_to_one")
    if len(samples) < len(run.predictions):
        raise ValueError(
            f"{run} was trained on cells that {shown_path(study.cells / 'cells.csv')} no longer "
            "holds. Train it again with notebook 04."
        )
    return samples


def copy_script(folder: Path) -> None:
    """Put Bokeh's script where the page looks for it, below ``_static`` of the book's sources."""
    target = folder / "_static" / _SCRIPT
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(bokeh.__file__).parent / "server" / "static" / "js" / "bokeh.min.js", target)


def _threshold_controls(curves: Mapping[str, dict], class_names: Sequence[str]) -> str:
    """Write the choice of class and threshold, and the table that answers it."""
    options = "".join(f"<option>{escape(name)}</option>" for name in curves)
    last, start = len(THRESHOLDS) - 1, int(np.searchsorted(THRESHOLDS, _START))
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td id="explored-called-{k}"></td>'
        f'<td id="explored-rest-{k}"></td></tr>'
        for k, name in enumerate(class_names)
    )
    return (
        f'<div class="controls"><label>Class <select id="explored-class">{options}</select>'
        '</label>\n<label>Threshold <input id="explored-threshold" type="range" min="0" '
        f'max="{last}" value="{start}"></label></div>\n<p id="explored-said" role="status"></p>\n'
        '<table><thead><tr><th scope="col">True class</th><th scope="col">called so</th>'
        f'<th scope="col">not called so</th></tr></thead><tbody>{rows}</tbody></table>'
    )


def _cell_controls(shown: pd.DataFrame, colours: Mapping[str, str]) -> str:
    """Write the boxes that show classes, and the list of cells, mistakes first."""
    boxes, groups = [], []
    for name, colour in colours.items():
        right = shown.loc[shown["class"] == name, "judged"] == "right"
        boxes.append(
            f'<label><input type="checkbox" value="{escape(name)}" checked><span class="swatch" '
            f'style="background: {colour}"></span>{escape(name)}: {right.sum()} of {len(right)} '
            "right</label>"
        )
    kinds = shown.groupby(["class", "predicted"])
    by_mistake = sorted(
        kinds.groups, key=lambda kind: (kind[0] == kind[1], -len(kinds.groups[kind]))
    )
    for true, predicted in by_mistake:
        cells = kinds.get_group((true, predicted))
        said = "right" if true == predicted else f"taken for {predicted}"
        options = "".join(
            f'<option value="{index}">{escape(row["id"])} ({row["confidence"]:.0%})</option>'
            for index, row in cells.iterrows()
        )
        groups.append(
            f'<optgroup label="{escape(true)}, {escape(said)}: {len(cells)}">{options}</optgroup>'
        )
    return (
        f'<div class="controls">{"".join(boxes)}</div>\n'
        f'<label>Cell <select id="explored-cell">{"".join(groups)}</select></label>'
    )


def operating_points(test: pd.DataFrame, class_names: Sequence[str]) -> pd.DataFrame:
    """Judge each class against the rest at each of `THRESHOLDS`.

    Parameters
    ----------
    test : DataFrame
        ``class``, and ``p_…`` for each class, as in `Run.predictions`.
    class_names : sequence of str
        The K classes.

    Returns
    -------
    DataFrame
        One row per class and threshold: ``class``, ``threshold``, ``sensitivity`` and
        ``specificity`` in [0, 1] (NaN where there is no cell to judge them by), and for each class
        ``called …``, how many of its cells are called ``class``: those with at least such a
        probability of it.
    """
    truth, tables = test["class"], []
    totals = truth.value_counts().reindex(class_names, fill_value=0)
    for name in class_names:
        reached = test[[f"p_{name}"]].to_numpy() >= THRESHOLDS
        called = pd.DataFrame({other: reached[truth == other].sum(axis=0) for other in class_names})
        others = [other for other in class_names if other != name]
        scores = {
            "class": name,
            "threshold": THRESHOLDS,
            "sensitivity": called[name] / totals[name],
            "specificity": 1 - called[others].sum(axis=1) / totals[others].sum(),
        }
        tables.append(called.add_prefix("called ").assign(**scores))
    return pd.concat(tables, ignore_index=True)


def _looked_up(points: pd.DataFrame, test: pd.DataFrame, class_names: Sequence[str]) -> dict:
    """Collect, by class, what the page looks up at each threshold."""
    totals = test["class"].value_counts().reindex(class_names, fill_value=0).tolist()
    found = {}
    for name, rows in points.dropna().groupby("class"):
        called = rows[[f"called {other}" for other in class_names]].to_numpy().tolist()
        scores = rows[["sensitivity", "specificity"]].round(4).to_dict("records")
        looked_up = [row | {"called": counts} for row, counts in zip(scores, called, strict=True)]
        found[name] = {"total": totals, "points": looked_up}
    return found


def _draw(samples: pd.DataFrame, most: int) -> pd.DataFrame:
    """Draw at most about so many samples, each class in its share, the same ones every time."""
    share = min(1, most / max(len(samples), 1))
    shuffled = samples.sample(frac=1, random_state=0).groupby("class")
    sizes = shuffled["id"].transform("size")
    kept = shuffled.cumcount() < np.ceil(sizes * share)
    return samples.loc[kept[kept].index.sort_values()].reset_index(drop=True)


def place(cells: pd.DataFrame, class_names: Sequence[str]) -> pd.DataFrame:
    """Add what a point says of its cell, and where its patch lies on the `contact_sheet`.

    Parameters
    ----------
    cells : DataFrame
        ``id``, ``class``, and ``p_…`` for each class.
    class_names : sequence of str
        The classes.

    Returns
    -------
    DataFrame
        The same rows, with ``predicted``, ``confidence``, ``said``, ``judged``, and ``left`` and
        ``top``, the place on the enlarged sheet in px.
    """
    probabilities = probability_matrix(cells, class_names)
    best = probabilities.argmax(axis=1)
    cells = cells.assign(
        predicted=np.array(class_names)[best], confidence=probabilities.max(axis=1)
    )
    wrong = cells["predicted"] != cells["class"]
    said = [
        f"{row['id']}\nis {row['class']}, said {row['predicted']}{', wrong' if odd else ''}\n"
        + "\n".join(f"p({name}) = {row[f'p_{name}']:.3f}" for name in class_names)
        for row, odd in zip(cells.to_dict("records"), wrong, strict=True)
    ]
    rows, columns = np.divmod(np.arange(len(cells)), _ACROSS)
    return cells.assign(
        said=said,
        judged=np.where(wrong, "wrong", "right"),
        left=columns * _SIDE * _ENLARGED,
        top=rows * _SIDE * _ENLARGED,
    )


def contact_sheet(patches: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Lay patches (N, H, W, 3) out in rows, all stretched alike for the eye; uint8 (Y, X, 3)."""
    alike = drawing.stretched(patches)
    sheet = np.zeros((-(-len(patches) // _ACROSS) * _SIDE, _ACROSS * _SIDE, 3), np.uint8)
    for index, patch in enumerate(alike):
        y, x = np.array(divmod(index, _ACROSS)) * _SIDE
        size = (_SIDE, _SIDE)
        sheet[y : y + _SIDE, x : x + _SIDE] = cv2.resize(patch, size, interpolation=cv2.INTER_AREA)
    return sheet


def _project(
    run: Run, learnt: pd.DataFrame, shown: pd.DataFrame, patches: NDArray[np.uint8]
) -> tuple[NDArray, int]:
    """Add ``x`` and ``y`` to both tables; return the shares of variance, and how many features.

    Features are scaled to length 1: as they are, the cells with strong ones stretch the picture,
    and all others lie in one corner.
    """
    model, config = training.load_run(run.directory)
    both = pd.concat([learnt, shown], ignore_index=True)
    features = normalize(training.embed(model, both, patches, config)[1])
    components = PCA(2, random_state=0).fit(features[: len(learnt)])
    places = components.transform(features).round(4)
    learnt[["x", "y"]], shown[["x", "y"]] = places[: len(learnt)], places[len(learnt) :]
    return components.explained_variance_ratio_, features.shape[1]


def _axis_labels(shares: Sequence[float]) -> list[str]:
    return [
        f"Principal component {number} ({share:.0%} of the variance)"
        for number, share in enumerate(shares, 1)
    ]


def _roc_picture(
    curves: Mapping[str, dict], points: pd.DataFrame, colours: Mapping[str, str], note: str
) -> drawing.Figure:
    """Draw the ROC curve of each class, with its operating point at the threshold of the start."""
    picture, axes = drawing.new_figure(size=(5.2, 4.8))
    said = []
    at_start = points[points["threshold"] == _START].set_index("class")
    for name, curve in curves.items():
        at, label = at_start.loc[name], f"{name}: AUROC {curve['auroc']:.3f}"
        axes.plot(curve["fpr"], curve["tpr"], color=colours[name], label=label)
        axes.plot(1 - at["specificity"], at["sensitivity"], "o", color=colours[name], markersize=9)
        said.append(
            f"{label}, sensitivity {at['sensitivity']:.2f} and specificity {at['specificity']:.2f}"
        )
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=0.8, linestyle=":")
    axes.set(xlabel="1 − specificity", ylabel="Sensitivity", xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))
    axes.legend(frameon=False, loc="lower right", fontsize=10)
    axes.set_title(f"Dots: a threshold of {_START}", fontsize=10)
    alt = f"ROC curves of each class against the rest, with dots at a threshold of {_START}. "
    return drawing.finish(picture, note, f"{alt}{'; '.join(said)}.")


def _features_picture(
    learnt: pd.DataFrame,
    shown: pd.DataFrame,
    colours: Mapping[str, str],
    shares: Sequence[float],
    note: str,
) -> drawing.Figure:
    """Draw cells at the place that the network gives them."""
    picture, axes = drawing.new_figure(size=(7, 5))
    for name, colour in colours.items():
        seen, of_class = learnt[learnt["class"] == name], shown[shown["class"] == name]
        axes.scatter(seen["x"], seen["y"], 8, color=colour, alpha=0.2, linewidth=0)
        at = of_class[of_class["judged"] == "right"]
        label = f"{name}: {len(at)} of {len(of_class)} right"
        axes.scatter(at["x"], at["y"], 22, color=colour, alpha=0.75, linewidth=0, label=label)
    wrong = shown[shown["judged"] == "wrong"]  # above all that are right
    look = {"marker": "x", "linewidth": 2}
    axes.scatter(wrong["x"], wrong["y"], 45, color=wrong["class"].map(colours).tolist(), **look)
    axes.legend(frameon=False, fontsize=10)
    axes.set(**dict(zip(("xlabel", "ylabel"), _axis_labels(shares), strict=True)))
    axes.set_title(_SIGNS, fontsize=10)
    alt = (
        f"Scatter of {len(shown)} test cells on two principal components of the network's "
        f"features, which hold {sum(shares):.0%} of the variance; {len(wrong)} crosses are cells "
        f"called wrongly. {_commonest_mistake(wrong)}"
    )
    return drawing.finish(picture, note, alt)


def _commonest_mistake(wrong: pd.DataFrame) -> str:
    if wrong.empty:
        return "None is wrong."
    kinds = (wrong["class"] + " taken for " + wrong["predicted"]).value_counts()
    return f"The commonest mistake: {kinds.index[0]} ({kinds.iloc[0]} cells)."


def _new_plot(label: str, axes: Sequence[str], note: str, **options: object) -> figure:
    """Return an empty plot that fits the width of its place."""
    plot = figure(sizing_mode="stretch_width", height=380, **options)
    plot.toolbar.logo = plot.axis.minor_tick_line_color = None
    for axis, name in zip((plot.xaxis, plot.yaxis), axes, strict=True):
        axis.axis_label = name
    plot.axis.axis_label_text_font_style = "normal"
    plot.title.text, plot.title.text_font_style = label, "normal"
    plot.grid.grid_line_color, plot.outline_line_color = "#eeeeee", None
    if note:
        style = {"text_font_size": "11px", "text_font_style": "italic", "text_color": "#666666"}
        plot.add_layout(Title(text=note, align="right", **style), "below")
    return plot


def _pointed(plot: figure, cells: Sequence[GlyphRenderer]) -> None:
    """Show a cell's patch under the cursor."""
    hover = HoverTool(renderers=cells, tooltips=_TOOLTIP, limit=1, point_policy="snap_to_data")
    hover.visible = False
    plot.add_tools(hover)


def _roc_plot(curves: Mapping[str, dict], colours: Mapping[str, str], note: str) -> figure:
    """Plot the ROC curve of each class, and a point that the page moves."""
    axes, around = ("1 − specificity", "Sensitivity"), (-0.02, 1.02)
    plot = _new_plot("ROC curves", axes, note, x_range=around, y_range=around, tools="")
    plot.line([0, 1], [0, 1], color="#999999", line_dash="dotted")
    for name, curve in curves.items():
        label = f"{name}: AUROC {curve['auroc']:.3f}"
        look = {"color": colours[name], "name": f"curve {name}", "legend_label": label}
        plot.line(curve["fpr"], curve["tpr"], **look)
    at = ColumnDataSource({"x": [], "y": []}, name="operating")
    plot.scatter(
        "x", "y", source=at, size=14, fill_color="white", line_color="#222222", line_width=3
    )
    plot.legend.location, plot.legend.border_line_color = "bottom_right", None
    return plot


def _strip_plot(shown: pd.DataFrame, colours: Mapping[str, str], note: str) -> figure:
    """Plot each test cell at its probability of a class, in a row for its true class."""
    spread = np.random.default_rng(0).uniform(-0.35, 0.35, len(shown))
    row = shown["class"].map({name: k for k, name in enumerate(colours)}) + spread
    columns = [f"p_{name}" for name in colours]
    source = ColumnDataSource(
        {column: shown[column].round(4) for column in (*columns, "said", "left", "top")}
        | {"shown": shown[columns[0]], "row": row, "colour": shown["class"].map(colours)},
        name="strip cells",
    )
    rows = (len(colours) - 0.5, -0.5)
    axes = ("Probability", "True class")
    plot = _new_plot("Test cells", axes, note, x_range=(-0.02, 1.02), y_range=rows, tools="")
    plot.xaxis.name = "strip axis"
    plot.yaxis.ticker = list(range(len(colours)))
    plot.yaxis.major_label_overrides = dict(enumerate(colours))
    plot.yaxis.major_label_orientation, plot.ygrid.visible = "vertical", False
    look = {"size": 6, "color": "colour", "alpha": 0.7}
    _pointed(plot, [plot.scatter("shown", "row", source=source, **look)])
    line = {"line_color": "#222222", "line_width": 2, "name": "threshold"}
    plot.add_layout(Span(location=_START, dimension="height", **line))
    return plot


def _features_plot(
    learnt: pd.DataFrame,
    shown: pd.DataFrame,
    colours: Mapping[str, str],
    shares: Sequence[float],
    note: str,
) -> figure:
    """Plot cells at the place that the network gives them; crosses are wrong."""
    columns = ["x", "y", "class", "said", "left", "top", "judged"]
    source, drawn = ColumnDataSource(shown[columns], name="scattered cells"), []
    plot = _new_plot(_SIGNS, _axis_labels(shares), note, tools="box_zoom,reset")
    plot.toolbar_location = "above"
    plot.toolbar.active_drag = None  # or a finger could not scroll past it
    plot.height = 480
    for name, colour in colours.items():
        seen = learnt[learnt["class"] == name]
        look = {"color": colour, "line_color": None, "alpha": 0.2, "size": 4}
        plot.scatter(seen["x"], seen["y"], name=f"training {name}", **look)
    marks = {"right": {"marker": "circle", "size": 7, "line_color": None, "fill_alpha": 0.75}}
    marks["wrong"] = {"marker": "x", "size": 10, "line_width": 2.5}
    for (judged, look), (name, colour) in itertools.product(marks.items(), colours.items()):
        filters = {"class": name, "judged": judged}
        chosen = [GroupFilter(column_name=key, group=value) for key, value in filters.items()]
        view = CDSView(filter=IntersectionFilter(operands=chosen))
        look = {"color": colour, "name": f"{judged} {name}"} | look
        cells = plot.scatter("x", "y", source=source, view=view, **look)
        cells.selection_glyph = cells.nonselection_glyph = None  # a ring marks the chosen one
        drawn.append(cells)
    ring = ColumnDataSource({"x": [], "y": []}, name="chosen")
    look = {"size": 20, "fill_color": None, "line_color": "#222222", "line_width": 2}
    plot.scatter("x", "y", source=ring, **look)
    _pointed(plot, drawn)
    plot.add_tools(TapTool(renderers=drawn, visible=False))
    return plot
