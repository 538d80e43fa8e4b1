"""Figures of step 07: what a network is shown instead of the picture as it is, and what it says."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hsc_utils import drawing

# of verdicts; markers of levels, which lie a little apart
_COLOURS = {"alarm": "#D55E00", "no sign": "#009E73", "cannot be told": "#777777"}
_LEVELS = {"cell": ("o", 0.13), "image": ("s", -0.13)}


def cell_views(
    views: Mapping[str, np.ndarray], class_names: Sequence[str], note: str = ""
) -> Figure:
    """Show views of some cells, one row for each view and one column for each cell.

    Parameters
    ----------
    views : mapping of str to ndarray
        By name, uint8 (N, H, W, 3), from `shortcuts.cell_views`. All views of a cell have the
        same contrast.
    class_names : sequence of str
        The class of each cell.
    note : str
        Whose data these are.
    """
    names = [textwrap.fill(name, 14) for name in views]
    count = len(class_names)
    size = 0.92 * count + 0.5, 0.95 * len(views) + 0.4
    figure, panels = drawing.picture_grid(len(views), count, size=size, labels=names)
    for axes, name in zip(panels[0], class_names, strict=True):
        axes.set_title(name, fontsize=9)
    for column, pictures in zip(panels.T, zip(*views.values(), strict=True), strict=True):
        for axes, picture in zip(column, _alike(pictures), strict=True):
            axes.imshow(picture)
    return drawing.finish(figure, note)


def image_views(
    views: Mapping[str, np.ndarray], class_names: Sequence[str], note: str = ""
) -> Figure:
    """Show views of some images, one row for each image and one column for each view.

    Parameters
    ----------
    views : mapping of str to ndarray
        By name, uint8 (N, H, W, 3). All views of an image have the same contrast.
    class_names : sequence of str
        The class of each image.
    note : str
        Whose data these are.
    """
    size = 1.9 * len(views) + 0.3, 1.9 * len(class_names) + 0.4
    figure, panels = drawing.picture_grid(
        len(class_names), len(views), size=size, labels=class_names
    )
    for axes, name in zip(panels[0], views, strict=True):
        axes.set_title(name, fontsize=9)
    for row, pictures in zip(panels, zip(*views.values(), strict=True), strict=True):
        for axes, picture in zip(row, _alike(pictures), strict=True):
            axes.imshow(picture)
    return drawing.finish(figure, note)


def _alike(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Stretch pictures of one size together, so that they stay comparable."""
    return np.split(drawing.stretched(np.concatenate(pictures)), len(pictures))


def facts(table: pd.DataFrame, note: str = "") -> Figure:
    """Draw what each fact alone reaches, one panel a level; `table` as `ask_trivial` tells it."""
    return _by_level(table, "known", "AUROC of a regression on it alone", note)


def view_scores(table: pd.DataFrame, note: str = "") -> Figure:
    """Draw the network's score on each view, one panel a level; `table` is from `ask_views`."""
    return _by_level(table, "view", "AUROC of the network as it is", note)


def _by_level(table: pd.DataFrame, names: str, title: str, note: str) -> Figure:
    """Draw AUROC with intervals by name, one panel a level, with a line at guessing."""
    levels = table["level"].unique()
    longest = table["level"].value_counts().max()
    size = 4.6 * len(levels), 0.32 * longest + 1.1
    figure, panels = drawing.new_figure(1, len(levels), size=size, squeeze=False)
    for axes, level in zip(panels[0], levels, strict=True):
        rows = table[table["level"] == level].iloc[::-1]
        _intervals(axes, np.arange(len(rows)), rows.rename(columns={"auroc": "estimate"}), 0.5)
        for place, known in enumerate(rows["auroc"].notna()):
            if not known:
                axes.text(0.52, place, "not known", va="center", fontsize=8, color="0.4")
        axes.set_yticks(range(len(rows)), rows[names])
        axes.set(title=f"{level}s", xlabel=title, xlim=(0, 1.02))
    return drawing.finish(figure, note)


def _intervals(
    axes: Axes, places: np.ndarray, rows: pd.DataFrame, reference: float, **look: object
) -> None:
    """Draw ``estimate`` with ``low`` and ``high`` at some heights, and a line at the reference."""
    look = {"marker": "o", "color": "#0072B2", "ls": "", "capsize": 2.5, "markersize": 5} | look
    ends = [rows["estimate"] - rows["low"], rows["high"] - rows["estimate"]]
    axes.errorbar(rows["estimate"], places, xerr=np.nan_to_num(ends), **look)
    axes.axvline(reference, color="0.6", linewidth=1, zorder=0)


def thirds(table: pd.DataFrame, note: str = "") -> Figure:
    """Draw the score in each third of the samples, one panel a level and property (`ask_where`)."""
    parts = list(table.groupby(["level", "property"], sort=False))
    size = 2.3 * len(parts) + 0.4, 2.9
    figure, panels = drawing.new_figure(1, len(parts), size=size, squeeze=False, sharey=True)
    for axes, ((level, name), rows) in zip(panels[0], parts, strict=True):
        ends = [rows["auroc"] - rows["low"], rows["high"] - rows["auroc"]]
        look = {"marker": "o", "color": "#0072B2", "ls": "", "capsize": 2.5, "markersize": 5}
        axes.errorbar(range(len(rows)), rows["auroc"], np.nan_to_num(ends), **look)
        axes.axhline(0.5, color="0.6", linewidth=1, zorder=0)
        axes.set_xticks(range(len(rows)), rows["third"])
        axes.set_title(f"{level}s, by {name}", fontsize=9.5)
        axes.set(xlim=(-0.5, len(rows) - 0.5), ylim=(0, 1.03))
    panels[0, 0].set_ylabel("AUROC")
    return drawing.finish(figure, note)


def verdicts(audit: pd.DataFrame, note: str = "") -> Figure:
    """Draw every question of `closing_table` with its number, interval and verdict."""
    groups = [
        (0.5, "AUROC (guessing: 0.5)", (0, 1.02)),
        (0.0, "difference of AUROC", (-0.5, 0.5)),
    ]
    counts = [
        len(audit.loc[audit["reference"] == reference, "key"].unique()) for reference, *_ in groups
    ]
    figure, panels = drawing.new_figure(
        2, 1, size=(8.6, 0.36 * sum(counts) + 1.9), squeeze=False, height_ratios=counts
    )
    for axes, (reference, title, limits) in zip(panels[:, 0], groups, strict=True):
        rows = audit[audit["reference"] == reference]
        keys = list(rows["key"].unique())[::-1]
        for verdict, colour in _COLOURS.items():
            for level, (marker, shift) in _LEVELS.items():
                ours = rows[(rows["verdict"] == verdict) & (rows["level"] == level)]
                places = np.array([keys.index(key) for key in ours["key"]]) + shift
                known = ours.fillna({"estimate": reference})
                look = {"color": colour, "marker": marker}
                _intervals(axes, places, known, reference, **look)
        asked = rows.drop_duplicates("key").set_index("key")["question"]
        axes.set_yticks(range(len(keys)), asked[keys])
        axes.set(xlabel=title, xlim=limits, ylim=(-0.6, len(keys) - 0.4))
    handles = [Line2D([], [], color=colour, lw=3, label=name) for name, colour in _COLOURS.items()]
    handles += [
        Line2D([], [], color="0.3", marker=marker, ls="", label=f"{level}s")
        for level, (marker, _) in _LEVELS.items()
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=5, frameon=False, fontsize=8.5)
    return drawing.finish(figure, note)
