"""Figures of step 07: what a network is shown instead of the picture as it is, and what it says."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from hsc_utils import drawing, paper

# of verdicts; markers, colours and shifts of levels, which lie a little apart
_COLOURS = {"alarm": "#D55E00", "no sign": "#009E73", "cannot be told": "#777777"}
_LEVELS = {"cell": ("o", "#0072B2", 0.16), "image": ("s", "#882255", -0.16)}
_STRETCHED = "All pictures stretched alike for the eye"


def cell_views(
    views: Mapping[str, np.ndarray], class_names: Sequence[str], note: str = ""
) -> drawing.Figure:
    """Show views of some cells, one row for each view and one column for each cell.

    Parameters
    ----------
    views : mapping of str to ndarray
        By name, uint8 (N, H, W, 3), from `shortcuts.cell_views`. All pictures are stretched alike.
    class_names : sequence of str
        The class of each cell.
    note : str
        Whose data these are.
    """
    order = _by_class(class_names)
    names = [textwrap.fill(name, 14) for name in views]
    side = min(0.92, 7.4 / len(order))
    size = side * len(order) + 0.6, 1.04 * side * len(views) + 0.7
    figure, panels = drawing.picture_grid(len(views), len(order), size=size, labels=names)
    for axes, place in zip(panels[0], order, strict=True):
        axes.set_title(list(class_names)[place], fontsize=9)
    for row, pictures in zip(panels, _alike(views).values(), strict=True):
        for axes, picture in zip(row, pictures[order], strict=True):
            axes.imshow(picture)
    figure.suptitle(_STRETCHED, fontsize=9.5)
    return drawing.finish(figure, note, _views_in_words("cells", views, class_names))


def image_views(
    views: Mapping[str, np.ndarray], class_names: Sequence[str], note: str = ""
) -> drawing.Figure:
    """Show views of some images, one row for each image and one column for each view.

    Parameters
    ----------
    views : mapping of str to ndarray
        By name, uint8 (N, H, W, 3). All pictures are stretched alike.
    class_names : sequence of str
        The class of each image.
    note : str
        Whose data these are.
    """
    order = _by_class(class_names)
    side = min(1.9, 7.7 / len(views))
    size = side * len(views) + 0.3, side * len(order) + 0.7
    names = [list(class_names)[place] for place in order]
    figure, panels = drawing.picture_grid(len(order), len(views), size=size, labels=names)
    for axes, name in zip(panels[0], views, strict=True):
        axes.set_title(name, fontsize=9)
    for column, pictures in zip(panels.T, _alike(views).values(), strict=True):
        for axes, picture in zip(column, pictures[order], strict=True):
            axes.imshow(picture)
    figure.suptitle(_STRETCHED, fontsize=9.5)
    return drawing.finish(figure, note, _views_in_words("images", views, class_names))


def _by_class(class_names: Sequence[str]) -> list[int]:
    """Return the places of samples, class by class in the order of readers."""
    names = paper.class_order(class_names)
    return sorted(range(len(class_names)), key=lambda k: names.index(list(class_names)[k]))


def _alike(views: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Stretch all pictures together, so that views and samples stay comparable."""
    return dict(zip(views, drawing.stretched(np.stack([*views.values()])), strict=True))


def _views_in_words(kind: str, views: Mapping[str, np.ndarray], class_names: Sequence[str]) -> str:
    """Say which views of how many samples are shown."""
    counts = pd.Series(list(class_names)).value_counts()
    shown = ", ".join(f"{counts[name]} of {name}" for name in paper.class_order(class_names))
    return f"Micrographs of {len(class_names)} {kind}, {shown}, each shown {', '.join(views)}."


def facts(table: pd.DataFrame, note: str = "") -> drawing.Figure:
    """Draw what each fact alone reaches, with a sign per level; `table` is from `ask_trivial`."""
    return _by_level(table, "known", "AUROC of a regression on each alone (guessing: 0.5)", note)


def view_scores(table: pd.DataFrame, note: str = "") -> drawing.Figure:
    """Draw the network's score on each view, with a sign per level; `table` is from `ask_views`."""
    return _by_level(table, "view", "AUROC of the network as it is (guessing: 0.5)", note)


def _by_level(table: pd.DataFrame, names: str, title: str, note: str) -> drawing.Figure:
    """Draw AUROC with intervals by name, levels a little apart, with a line at guessing."""
    shown, levels = list(table[names].unique()), list(table["level"].unique())
    figure, axes = drawing.new_figure(size=(8, 0.45 * len(shown) + 1.3))
    for level in levels:
        rows = table[table["level"] == level].rename(columns={"auroc": "estimate"})
        marker, colour, shift = _LEVELS[level]
        places = np.array([shown.index(name) for name in rows[names]]) - shift * (len(levels) > 1)
        _intervals(axes, places, rows, 0.5, marker=marker, color=colour, label=f"{level}s")
        for place in places[rows["estimate"].isna()]:
            text = f"{level}s: not known"
            axes.text(0.52, place, text, va="center", fontsize=8, color="0.4")
    axes.set_yticks(range(len(shown)), shown)
    axes.set(xlabel=title, xlim=(0, 1.02), ylim=(len(shown) - 0.5, -0.5))
    if len(levels) > 1:
        figure.legend(loc="outside upper right", ncols=2, frameon=False, fontsize=9)
    said = "; ".join(
        f"{level}s: " + ", ".join(f"{name} {_number(auroc)}" for name, auroc in rows.to_numpy())
        for level, rows in table.groupby("level", sort=False)[[names, "auroc"]]
    )
    return drawing.finish(figure, note, f"Dots with intervals: {title}. {said.capitalize()}.")


def _number(value: float) -> str:
    """Write a score, or that it is not known."""
    return "not known" if np.isnan(value) else f"{value:.2f}"


def _intervals(
    axes: Axes, places: np.ndarray, rows: pd.DataFrame, reference: float, **look: object
) -> None:
    """Draw ``estimate`` with ``low`` and ``high`` at some heights, and a line at the reference."""
    look = {"ls": "", "capsize": 2.5, "markersize": 5.5} | look
    ends = [rows["estimate"] - rows["low"], rows["high"] - rows["estimate"]]
    axes.errorbar(rows["estimate"], places, xerr=np.nan_to_num(ends), **look)
    axes.axvline(reference, color="0.6", linewidth=1, zorder=0)


def thirds(table: pd.DataFrame, note: str = "") -> drawing.Figure:
    """Draw the score in each third of samples, one panel per level and property (`ask_where`)."""
    parts, said = list(table.groupby(["level", "property"], sort=False)), []
    columns = min(4, len(parts))
    lines = -(-len(parts) // columns)
    figure, panels = drawing.new_figure(
        lines, columns, size=(8 / 4 * columns, 3.1 * lines), squeeze=False, sharey=True
    )
    for axes in panels.flat[len(parts) :]:
        axes.set_axis_off()
    for axes, ((level, name), rows) in zip(panels.flat, parts, strict=False):
        marker, colour, _ = _LEVELS[level]
        ends = [rows["auroc"] - rows["low"], rows["high"] - rows["auroc"]]
        look = {"marker": marker, "color": colour, "ls": "", "capsize": 2.5, "markersize": 5.5}
        axes.errorbar(range(len(rows)), rows["auroc"], np.nan_to_num(ends), **look)
        axes.axhline(0.5, color="0.6", linewidth=1, zorder=0)
        axes.set_xticks(range(len(rows)), rows["third"])
        axes.set_title(f"{level}s, third by\n{name}", fontsize=9)
        axes.set(xlim=(-0.5, len(rows) - 0.5), ylim=(0, 1.03))
        scores = ", ".join(map(_number, rows["auroc"]))
        said.append(f"{level}s by {name} ({', '.join(rows['third'])}): {scores}")
    for axes in panels[:, 0]:
        axes.set_ylabel("AUROC (guessing: 0.5)")
    alt = "Dots with intervals: the network's AUROC in each third of the samples. "
    return drawing.finish(figure, note, f"{alt}{'; '.join(said).capitalize()}.")


def verdicts(audit: pd.DataFrame, note: str = "") -> drawing.Figure:
    """Draw every question of `closing_table` with its number, interval and verdict."""
    groups = [
        (0.5, "AUROC (guessing: 0.5)", (0, 1.02)),
        (0.0, "Difference of AUROC (none: 0)", (-0.5, 0.5)),
    ]
    groups = [group for group in groups if (audit["reference"] == group[0]).any()]
    counts = [
        len(audit.loc[audit["reference"] == reference, "key"].unique()) for reference, *_ in groups
    ]
    figure, panels = drawing.new_figure(
        len(groups), 1, size=(8, 0.43 * sum(counts) + 1.9), squeeze=False, height_ratios=counts
    )
    for axes, (reference, title, limits) in zip(panels[:, 0], groups, strict=True):
        rows = audit[audit["reference"] == reference]
        keys = list(rows["key"].unique())[::-1]
        for verdict, colour in _COLOURS.items():
            for level, (marker, _, shift) in _LEVELS.items():
                ours = rows[(rows["verdict"] == verdict) & (rows["level"] == level)]
                places = np.array([keys.index(key) for key in ours["key"]]) + shift
                known = ours.fillna({"estimate": reference})
                look = {"color": colour, "marker": marker}
                _intervals(axes, places, known, reference, **look)
        asked = rows.drop_duplicates("key").set_index("key")["question"]
        questions = [textwrap.fill(question, 42) for question in asked[keys]]
        axes.set_yticks(range(len(keys)), questions, fontsize=9)
        axes.set(xlabel=title, xlim=limits, ylim=(-0.6, len(keys) - 0.4))
    handles = [Line2D([], [], color=colour, lw=3, label=name) for name, colour in _COLOURS.items()]
    handles += [
        Line2D([], [], color="0.3", marker=marker, ls="", label=f"{level}s")
        for level, (marker, *_) in _LEVELS.items()
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=5, frameon=False, fontsize=9)
    return drawing.finish(figure, note, _verdicts_in_words(audit))


def _verdicts_in_words(audit: pd.DataFrame) -> str:
    """Count the verdicts, and name each alarm with its number."""
    counts = audit["verdict"].value_counts().reindex([*_COLOURS], fill_value=0)
    text = "Dots with intervals: the questions of the audit, coloured by verdict: " + ", ".join(
        f"{count} {name}" for name, count in counts.items()
    )
    alarms = audit[audit["verdict"] == "alarm"]
    for row in alarms.itertuples():
        text += f". Alarm for {row.level}s: {row.question} {row.measured}: {row.estimate:.2f}"
    return f"{text}."
