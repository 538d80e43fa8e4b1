"""Figures of step 08: what a model says of new images, how sure it is, and how familiar they look.

Each takes a `note` for its foot that says whose data it shows.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import Normal, Stroke
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter
from numpy.typing import NDArray

from hsc_utils import drawing, paper

_GREY = "#999999"
_DASHED = (0, (1.6, 1.2))
_PER_ROW = 8  # cells of a `sheet`
_BLUE, _ORANGE, _VIOLET = "#0072B2", "#D55E00", "#CC79A7"
_SETS = {"validation": "0.55", "test": _BLUE, "new images": _ORANGE}  # others are changed cells


def field(
    rgb: NDArray[np.uint8],
    cells: pd.DataFrame,
    class_names: Sequence[str],
    confidence: float,
    title: str = "",
    note: str = "",
) -> drawing.Figure:
    """Show a field with each cell ringed in the colour of its class.

    Parameters
    ----------
    rgb : uint8 (Y, X, 3)
        The field; it is stretched for the eye.
    cells : DataFrame
        Its rows of ``cells.csv``: ``y``, ``x`` and ``sigma`` in pixels of `rgb`, ``predicted``,
        ``confidence`` and ``unlike``.
    class_names : sequence of str
        The model's classes, in order.
    confidence : float
        The probability from which on a class is called; cells below it are ringed in grey.
    title, note : str
        What stands above, and at the foot.
    """
    return fields({title: (rgb, cells)}, class_names, confidence, note)


def fields(
    shown: Mapping[str, tuple[NDArray[np.uint8], pd.DataFrame]],
    class_names: Sequence[str],
    confidence: float,
    note: str = "",
) -> drawing.Figure:
    """Show several fields side by side as `field` does; pairs of field and cells come by title."""
    columns = 2 if len(shown) == 4 else min(len(shown), 3)
    lines = -(-len(shown) // columns)
    side = min(5.4, 8 / columns)
    colours = drawing.class_colours(paper.class_order(class_names))
    handles = [_ring_handle(colour, name) for name, colour in colours.items()]
    handles.append(_ring_handle(_GREY, f"undecided (below {confidence:.0%})"))
    handles.append(_ring_handle("0.25", "unlike any cell of training", _DASHED))
    keys = min(len(handles), int(side * columns / 1.6))
    titles = max(title.count("\n") + 1 for title in shown) * lines
    size = side * columns, side * lines + 0.45 + 0.21 * (titles - (-len(handles) // keys))
    figure, panels = drawing.picture_grid(lines, columns, size=size)
    for panel, (title, (rgb, cells)) in zip(panels.flat, shown.items(), strict=False):
        panel.imshow(drawing.stretched(rgb))
        for unlike, style in ((False, "solid"), (True, _DASHED)):
            ringed = cells[cells["unlike"].astype(bool) == unlike]
            edges = (
                ringed["predicted"].map(colours).where(ringed["confidence"] >= confidence, _GREY)
            )
            _ring(panel, ringed, list(edges), style)
        panel.set(xlim=(-0.5, rgb.shape[1] - 0.5), ylim=(rgb.shape[0] - 0.5, -0.5))
        panel.set_title(title, fontsize=8.5)
    look = {"ncols": keys, "frameon": False, "fontsize": 9, "handletextpad": 0.4}
    look |= {"title": "Each field is stretched for the eye", "title_fontsize": 9}
    figure.legend(
        handles=handles, loc="outside upper left", alignment="left", columnspacing=1.4, **look
    )
    alt = "Micrographs with each cell ringed in the colour of its class. " + " ".join(
        f"Field {number}: {_cells_in_words(cells, class_names, confidence)}."
        for number, (_, cells) in enumerate(shown.values(), 1)
    )
    return drawing.finish(figure, note, alt)


def _cells_in_words(cells: pd.DataFrame, class_names: Sequence[str], confidence: float) -> str:
    """Count the cells of a field by what is called, and those unlike training's."""
    sure = cells["confidence"] >= confidence
    called = cells["predicted"].where(sure, "undecided").value_counts()
    names = [*paper.class_order(class_names), "undecided"]
    said = [f"{called[name]} {name}" for name in names if name in called]
    if unlike := int(cells["unlike"].astype(bool).sum()):
        said.append(f"{unlike} unlike any cell of training")
    return ", ".join(said) or "no cell"


def _ring(panel: Axes, cells: pd.DataFrame, colours: list[str], style: object) -> None:
    """Ring some cells; a white seam shows on dark ground, the colour on bright."""
    diameters = 2 * np.sqrt(2) * cells["sigma"].to_numpy(float) + 6
    places = {"offsets": cells[["x", "y"]].to_numpy(float), "units": "xy"}
    seam = [Stroke(linewidth=3.2, foreground="white"), Normal()]
    look = {"facecolors": "none", "edgecolors": colours, "linewidths": 2.0, "linestyles": [style]}
    rings = EllipseCollection(
        diameters,
        diameters,
        np.zeros(len(cells)),
        offset_transform=panel.transData,
        path_effects=seam,
        **places,
        **look,
    )
    panel.add_collection(rings)


def _ring_handle(colour: str, label: str, style: object = "solid") -> Line2D:
    """Return the sign of a legend for rings of a colour or style."""
    return Line2D([], [], color=colour, lw=2.2, ls=style, label=label)


def sheet(
    patches: NDArray[np.uint8], cells: pd.DataFrame, class_names: Sequence[str], note: str = ""
) -> drawing.Figure:
    """Show the surest and the least sure cells of each predicted class.

    Under each cell a bar divides into the probabilities of all classes, and stands that of the
    predicted one; cells unlike any of training are framed.

    Parameters
    ----------
    patches : uint8 (N, S, S, 3)
        Pictures of cells, all stretched alike.
    cells : DataFrame
        Rows of ``cells.csv`` in the same order: ``predicted``, ``confidence``, ``unlike``, ``p_…``.
        The eight surest and the eight least sure of each class are shown.
    class_names : sequence of str
        The model's classes, in order.
    note : str
        Whose data these are.
    """
    rows, names = {}, paper.class_order(class_names)
    for name in names:
        ordered = np.flatnonzero((cells["predicted"] == name).to_numpy())
        ordered = ordered[np.argsort(-cells["confidence"].to_numpy()[ordered], kind="stable")]
        half = min(_PER_ROW, -(-len(ordered) // 2))
        rows |= {
            f"{name}\nsurest": ordered[:half],
            f"{name}\nleast sure": ordered[half:][-_PER_ROW:],
        }
    rows = {label: places for label, places in rows.items() if len(places)}
    size = 8, 1.16 * len(rows) + 0.8
    figure, panels = drawing.picture_grid(len(rows), _PER_ROW, size=size, labels=[*rows])
    colours, pictures = drawing.class_colours(names), drawing.stretched(patches)
    for row, places in zip(panels, rows.values(), strict=True):
        for panel, place in zip(row, places, strict=False):
            _draw_cell(panel, pictures[place], cells.iloc[place], colours)
    handles = [Patch(color=colour, label=name) for name, colour in colours.items()]
    handles.append(_ring_handle("0.1", "unlike any cell of training", _DASHED))
    look = {"ncols": min(len(handles), 5), "frameon": False, "fontsize": 9}
    look |= {"title": "All cells are stretched alike for the eye", "title_fontsize": 9}
    figure.legend(handles=handles, loc="outside upper left", alignment="left", **look)
    sure = "; ".join(
        f"{' '.join(label.split())}: {_percents(cells['confidence'].iloc[places])}"
        for label, places in rows.items()
    )
    alt = (
        "Micrographs of single cells by predicted class, each above a bar of its probabilities. "
        f"Probability of the predicted class, {sure}."
    )
    return drawing.finish(figure, note, alt)


def _percents(values: pd.Series) -> str:
    """Write the range of some shares."""
    low, high = f"{values.min():.0%}", f"{values.max():.0%}"
    return low if low == high else f"{low} to {high}"


def _draw_cell(
    panel: Axes, picture: NDArray[np.uint8], cell: pd.Series, colours: Mapping[str, str]
) -> None:
    """Draw one cell of a `sheet` with its probabilities below."""
    side = len(picture)
    panel.imshow(picture, extent=(0, side, side, 0))
    start = 0.0
    for name, colour in colours.items():
        width = cell[f"p_{name}"] * side
        panel.add_patch(Rectangle((start, 1.06 * side), width, 0.12 * side, color=colour, lw=0))
        start += width
    if cell["unlike"]:
        seam = [Stroke(linewidth=3.4, foreground="white"), Normal()]
        look = {"fill": False, "lw": 2, "ls": _DASHED, "ec": "0.1", "clip_on": False}
        panel.add_patch(Rectangle((0, 0), side, side, path_effects=seam, **look))
    panel.set(xlim=(-0.02 * side, 1.02 * side), ylim=(1.2 * side, -0.02 * side))
    panel.set_title(f"{cell['confidence']:.0%}", fontsize=8, y=-0.24)


def coverage(table: pd.DataFrame, confidence: float, note: str = "") -> drawing.Figure:
    """Draw how many predictions are right against how many are made, as more is asked of them.

    Parameters
    ----------
    table : DataFrame
        One row per confidence asked for, the chosen one among them: ``confidence``, ``coverage``
        (share of samples for which a class is called), ``accuracy`` (share of these that are right)
        and its interval, ``low`` and ``high`` (NaN where there is none).
    confidence : float
        The chosen one, which is marked.
    note : str
        Whose data these are.
    """
    figure, (axes, asked) = drawing.new_figure(1, 2, size=(8, 3.4), sharex=True)
    table = table[table["coverage"] > 0].sort_values("confidence")
    axes.fill_between(table["coverage"], table["low"], table["high"], color=_BLUE, alpha=0.15, lw=0)
    axes.plot(table["coverage"], table["accuracy"], color=_BLUE, marker=".")
    asked.plot(table["coverage"], table["confidence"], color=_BLUE, marker=".")
    chosen = table[np.isclose(table["confidence"], confidence)]
    for panel, height in ((axes, "accuracy"), (asked, "confidence")):
        for place in chosen["coverage"]:
            panel.axvline(place, color="0.8", lw=1, zorder=0)
        label = f"chosen: {confidence:.0%}" if len(chosen) else f"{confidence:.0%} calls none"
        panel.plot(chosen["coverage"], chosen[height], "o", ms=9, color=_ORANGE, label=label)
        panel.set(xlim=(0, 1.03))
        panel.set_xlabel("Share for which a class is called")
        panel.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        panel.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        panel.set_ylim(None, 1)
        for line in panel.lines:
            line.set_clip_on(not len(line.get_xdata()))  # dots at 100 % are shown whole
    axes.set_ylabel("Share of these that is right")
    asked.set_ylabel("Probability asked for")
    asked.legend(frameon=False, fontsize=9, loc="lower left")
    alt = f"Two curves. With a probability of {confidence:.0%} asked for, "
    for row in chosen[["coverage", "accuracy", "low", "high"]].to_numpy():
        called, right, low, high = (f"{share:.0%}" for share in row)
        alt += f"{called} of the samples are given a class, and {right} of these rightly"
        alt += f" ({low} to {high})." if np.isfinite(row[2]) else "."
    alt += "no sample is given a class." * chosen.empty
    return drawing.finish(figure, note, alt)


def distances(
    by_set: Mapping[str, Sequence[float]], threshold: float = 1.0, note: str = ""
) -> drawing.Figure:
    """Draw how far samples lie from those of training, set by set, with the share beyond.

    Parameters
    ----------
    by_set : mapping of str to sequence of float
        Distances in the network's last features by set: ``validation``, ``test``, ``new images``,
        and changed samples by the name of the change. None is empty.
    threshold : float
        What lies beyond is unlike the samples of training; 1 where distances are its multiples.
    note : str
        Whose data these are.
    """
    figure, axes = drawing.new_figure(size=(8, 0.46 * len(by_set) + 1.1))
    shares = {}
    rng = np.random.default_rng(0)  # of the heights of points, which mean nothing
    names = [name for name in _SETS if name in by_set]
    names += [name for name in by_set if name not in _SETS]
    for row, name in enumerate(names):
        colour, values = _SETS.get(name, _VIOLET), np.asarray(by_set[name], float)
        heights = row + rng.uniform(-0.28, 0.28, len(values))
        axes.scatter(values, heights, 7, color=colour, alpha=0.3, lw=0, rasterized=True)
        low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
        axes.plot([low, high], [row, row], color="0.1", lw=3.5, solid_capstyle="butt")
        axes.plot(middle, row, "|", color="0.1", ms=15, mew=2)
        shares[name] = f"{(values > threshold).mean():.1%}"
        axes.text(1.02, row, shares[name], transform=axes.get_yaxis_transform(), va="center")
    axes.text(1.02, -0.75, "beyond", transform=axes.get_yaxis_transform(), va="center")
    axes.axvline(threshold, color=_ORANGE, lw=1.2, ls="--")
    look = {"color": _ORANGE, "va": "center", "ha": "center", "fontsize": 9}
    axes.text(threshold, -0.75, "threshold", backgroundcolor="white", **look)
    axes.set_yticks(range(len(names)), names)
    axes.set(ylim=(len(by_set) - 0.5, -0.95), xscale="log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("Distance to the nearest class of training samples, in thresholds (log scale)")
    said = ", ".join(f"{name} {share}" for name, share in shares.items())
    alt = (
        "Clouds of points with quartiles: how far samples lie from those of training, set by set. "
        f"Beyond the threshold lie: {said}."
    )
    return drawing.finish(figure, note, alt)


def probabilities(
    predictions: pd.DataFrame, class_names: Sequence[str], note: str = ""
) -> drawing.Figure:
    """Draw the probabilities of each image as one bar, with what is called and what is known.

    Parameters
    ----------
    predictions : DataFrame
        Rows of ``predictions.csv``, at most some 40: ``source``, ``class`` (empty where not known),
        ``p_…`` (NaN where nothing can be said), ``called``, ``cells`` and ``warnings``.
    class_names : sequence of str
        The model's classes, in order.
    note : str
        Whose data these are.
    """
    size = 8, 0.3 * len(predictions) + 1.4
    figure, (axes, said) = drawing.new_figure(1, 2, size=size, sharey=True, width_ratios=(4, 3))
    rows, start = np.arange(len(predictions)), np.zeros(len(predictions))
    decided = predictions["called"].isin(class_names).to_numpy()
    names = predictions["source"]
    colours = drawing.class_colours(paper.class_order(class_names))
    for name, colour in colours.items():
        width = predictions[f"p_{name}"].fillna(0).to_numpy(float)
        for some, strength in ((decided, 1.0), (~decided, 0.45)):
            look = {"color": colour, "alpha": strength, "height": 0.72}
            axes.barh(rows[some], width[some], left=start[some], **look)
        start = start + width
    shown = [f"…{name[-34:]}" if len(name) > 35 else name for name in names]
    axes.set_yticks(rows, shown, fontsize=8.5)
    axes.set(xlim=(0, 1), ylim=(len(rows) - 0.4, -1.4), xlabel="Probability, calibrated")
    wrong = decided & predictions["class"].ne("") & predictions["class"].ne(predictions["called"])
    _write_beside(said, predictions, wrong)
    handles = [Patch(color=colour, label=name) for name, colour in colours.items()]
    handles.append(Patch(color="0.2", alpha=0.45, label="pale: undecided"))
    look = {"ncols": min(len(handles), 5), "frameon": False, "fontsize": 9}
    figure.legend(handles=handles, loc="outside upper left", **look)
    counts = predictions["called"].value_counts()
    called = ", ".join(
        f"{counts[name]} {name}"
        for name in [*colours, *counts.index.difference([*colours])]
        if name in counts
    )
    alt = (
        f"Stacked bars of the probabilities of {len(predictions)} images. Called are {called}. "
        f"Of {(decided & predictions['class'].ne('')).sum()} images that are called and whose "
        f"class is known, {wrong.sum()} called wrongly."
    )
    return drawing.finish(figure, note, alt)


def _write_beside(axes: Axes, predictions: pd.DataFrame, wrong: pd.Series) -> None:
    """Write what is called, what is known, the number of cells and a sign of warnings."""
    axes.axis("off")
    columns = {
        "called": (0.0, predictions["called"]),
        "truth": (0.36, predictions["class"].replace("", "not known")),
        "cells": (0.7, predictions["cells"].astype("Int64").astype("string").fillna("–")),
        "warned": (0.88, predictions["warnings"].ne("").map({True: "⚠", False: ""})),
    }
    for title, (place, texts) in columns.items():
        axes.text(place, -0.95, title, va="center", fontsize=8.5, weight="bold")
        for row, text in enumerate(texts):
            loud = title == "warned" or (title == "called" and wrong.iloc[row])
            colour, weight = (_ORANGE, "bold") if loud else ("0.2", "normal")
            axes.text(place, row, text, va="center", fontsize=8.5, color=colour, weight=weight)
