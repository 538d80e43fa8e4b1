"""Figures of step 05: several models on the same test set."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from hsc_utils import drawing, paper
from hsc_utils.study import SLICES, model_words

# Paul Tol's muted set: colour-blind safe, and none of them is the colour of a class
_MODEL_COLOURS = ("#888888", "#44AA99", "#882255", "#DDCC77", "#332288", "#88CCEE", "#117733")
_SCORE_NAMES = {"auroc": "AUROC", "balanced_accuracy": "balanced accuracy"}
_LINES = ("-", "--", "-.", ":")
_BLUE = "#0072B2"


def _model_colours(models: Sequence[str]) -> dict[str, str]:
    """Give each model a colour, in the order given."""
    return {model: _MODEL_COLOURS[k % len(_MODEL_COLOURS)] for k, model in enumerate(models)}


def _range(row: pd.Series) -> str:
    """Write an estimate with its interval, or say that it has none."""
    interval = f"{row['low']:.3f}–{row['high']:.3f}"
    return f"{row['estimate']:.3f} ({'no interval' if np.isnan(row['low']) else interval})"


def _aurocs(table: pd.DataFrame) -> pd.DataFrame:
    """Return the AUROC of each model (index level 0) by class and of their mean (level 1)."""
    rows = table[(table["against"] == "") & table["score"].str.startswith("auroc")]
    return rows.set_index(["model", "score"])


def _means_in_words(rows: pd.DataFrame) -> str:
    """Say each model's AUROC, mean of classes."""
    means = rows.xs("auroc", level="score")
    return "; ".join(f"{model_words(str(model))}: {_range(row)}" for model, row in means.iterrows())


def roc_curves(
    curves: Mapping[tuple[str, str], tuple[np.ndarray, np.ndarray]],
    table: pd.DataFrame,
    note: str = "",
) -> drawing.Figure:
    """Draw ROC curves, one panel per class, one line per model (the paper's Figure 7).

    Parameters
    ----------
    curves : mapping of (str, str) to (ndarray, ndarray)
        By model and class, false and true positive rates, from `comparison.roc_curves`.
    table : DataFrame
        From `comparison.compare`: the legends give each line's AUROC with its interval.
    note : str
        Whose data these are.
    """
    models = list(dict.fromkeys(model for model, _ in curves))
    classes = paper.class_order(name for _, name in curves)
    rows, colours = _aurocs(table), _model_colours(models)
    columns = 2 if len(classes) in (2, 4) else min(len(classes), 3)
    lines = math.ceil(len(classes) / columns)
    # the legends have a row of their own, so that nothing else can lie over them
    heights = (8 / max(columns, 3) + 0.3, 0.4 + 0.42 * len(models)) * lines
    figure, panels = drawing.new_figure(
        2 * lines,
        columns,
        size=(8 * columns / max(columns, 3), sum(heights) + 0.2),
        squeeze=False,
        height_ratios=heights,
    )
    for axes in panels.flat:
        axes.set_axis_off()
    for axes, below, name in zip(panels[::2].flat, panels[1::2].flat, classes, strict=False):
        for index, model in enumerate(models):
            label = f"{model_words(model)}\n{_range(rows.loc[(model, f'auroc {name}')])}"
            line = {"color": colours[model], "linestyle": _LINES[index % len(_LINES)]}
            axes.plot(*curves[model, name], label=label, lw=1.8, **line)
        axes.set_axis_on()
        axes.plot([0, 1], [0, 1], color="0.8", linewidth=1, zorder=0)
        axes.set(xlabel="False positive rate", ylabel="True positive rate", aspect="equal")
        axes.set_title(name)
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
        small = {"fontsize": 9, "title_fontsize": 9, "title": "AUROC (interval)"}
        handles = axes.get_legend_handles_labels()
        below.legend(*handles, loc="upper center", frameon=False, **small)
    alt = (
        f"ROC curves of {len(models)} models, one panel per class ({', '.join(classes)}). "
        f"AUROC, mean of classes, with its interval: {_means_in_words(rows)}."
    )
    return drawing.finish(figure, note, alt)


def auroc_dots(table: pd.DataFrame, note: str = "") -> drawing.Figure:
    """Draw each model's AUROC with its interval, by class and their mean, as dots.

    Parameters
    ----------
    table : DataFrame
        From `comparison.compare`.
    note : str
        Whose data these are.
    """
    rows = _aurocs(table)
    models, scores = rows.index.unique("model"), rows.index.unique("score")
    names = {"auroc": "mean of classes"}
    names |= {f"auroc {c}": c for c in paper.class_order(s[6:] for s in scores if s not in names)}
    colours, drawn = _model_colours(list(models)), len(models) * len(names)
    size = 8, 0.21 * drawn + 0.16 * len(names) + 0.22 * math.ceil(len(models) / 3) + 0.9
    figure, axes = drawing.new_figure(size=size)
    right = axes.get_yaxis_transform()
    for index, model in enumerate(models):
        places = np.arange(len(names)) + (index - (len(models) - 1) / 2) * 0.8 / len(models)
        ours = rows.loc[model].loc[[*names]]
        ends = np.abs(ours[["low", "high"]].to_numpy().T - ours["estimate"].to_numpy())
        look = {"fmt": "o", "color": colours[model], "capsize": 2.5, "markersize": 6}
        axes.errorbar(ours["estimate"], places, xerr=ends, label=model_words(model), **look)
        for place, (_, row) in zip(places, ours.iterrows(), strict=True):
            axes.text(1.02, place, _range(row), transform=right, va="center", fontsize=8.5)
    for place in range(1, len(names)):
        axes.axhline(place - 0.5, color="0.9", linewidth=1, zorder=0)
    axes.axvline(0.5, color="0.5", linewidth=1, linestyle=":")
    lowest = np.nanmin(rows[["estimate", "low"]].to_numpy())
    axes.set_yticks(range(len(names)), names.values())
    axes.set(xlim=(min(0.5, lowest) - 0.01, 1.005), ylim=(len(names) - 0.5, -0.5))
    axes.set_xlabel("AUROC, one class against the rest (guessing: 0.5)")
    figure.legend(loc="outside upper left", frameon=False, ncols=3, fontsize=9)
    alt = (
        "Dots with intervals: the AUROC of each model by class, and the mean of classes. "
        f"The means: {_means_in_words(rows)}."
    )
    return drawing.finish(figure, note, alt)


def differences(table: pd.DataFrame, note: str = "") -> drawing.Figure:
    """Draw differences with intervals, one panel per score, filled where p (Holm) < 0.05.

    A single model leaves nothing but a sentence to draw.

    Parameters
    ----------
    table : DataFrame
        From `comparison.holm`.
    note : str
        Whose data these are.
    """
    rows = table[table["against"] != ""]
    if rows.empty:
        figure, axes = drawing.new_figure(size=(8, 1))
        axes.set_axis_off()
        models = ", ".join(map(model_words, table["model"].unique()))
        text = f"One model, {models}: there is no difference to draw."
        axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes)
        return drawing.finish(figure, note, text)
    scores = rows["score"].unique()
    pairs = list(dict.fromkeys(zip(rows["model"], rows["against"], strict=True)))
    size = 8, 1.5 + 0.45 * len(pairs)
    figure, panels = drawing.new_figure(1, len(scores), size=size, squeeze=False, sharey=True)
    for axes, score in zip(panels[0], scores, strict=True):
        ours = rows[rows["score"] == score].set_index(["model", "against"]).loc[pairs]
        for y, row in enumerate(ours.itertuples()):
            _interval(axes, row, y, _BLUE, filled=row.p_holm < 0.05)
        axes.axvline(0, color="0.5", linewidth=1, linestyle=":")
        axes.set_xlabel(f"Difference in {_SCORE_NAMES[score]}")
    names = [f"{model_words(model)}\nminus {model_words(against)}" for model, against in pairs]
    _name_rows(panels[0], names, fontsize=9)
    figure.legend(handles=_p_handles(_BLUE), loc="outside upper right", ncols=2, frameon=False)
    alt = "Differences between models with their intervals. " + " ".join(
        _differences_in_words(rows[rows["score"] == score], _SCORE_NAMES[score]) for score in scores
    )
    return drawing.finish(figure, note, alt)


def _differences_in_words(rows: pd.DataFrame, score: str) -> str:
    """Say how many differences in a score are shown to be there, and which is the largest."""
    largest = rows.loc[rows["estimate"].abs().idxmax()]
    return (
        f"In {score}, {(rows['p_holm'] < 0.05).sum()} of {len(rows)} differ with a corrected "
        f"p below 0.05; the largest is {model_words(largest['model'])} minus "
        f"{model_words(largest['against'])}, {_range(largest)}."
    )


def slices(
    table: pd.DataFrame,
    runs: pd.DataFrame,
    note: str = "",
    slice_names: Sequence[str] = ("slice 0", "slice 1", "slice 2"),
) -> drawing.Figure:
    """Draw AUROC by the slices a model sees, and what all three add to each choice of fewer.

    Parameters
    ----------
    table : DataFrame
        From `comparison.holm`, with the model that sees all slices as baseline.
    runs : DataFrame
        From `comparison.find_runs_on_slices`; choices without a run are named as not trained.
    note : str
        Whose data these are.
    slice_names : sequence of str
        How to call the slices, such as "slice 0, DIC".
    """
    seen = runs.drop_duplicates("model").set_index("model")["channels"]
    rows = table[table["score"] == "auroc"]
    alone = rows[rows["against"] == ""].assign(channels=lambda t: t["model"].map(seen))
    added = rows[rows["against"] != ""].assign(channels=lambda t: t["against"].map(seen))
    figure, panels = drawing.new_figure(1, 2, size=(8, 4.4), sharey=True)
    for axes, ours, colour in zip(panels, (alone, added), ("#882255", _BLUE), strict=True):
        for row in ours.itertuples():
            filled = row.against == "" or row.p_holm < 0.05
            _interval(axes, row, SLICES.index(row.channels), colour, filled=filled)
    place = {"transform": panels[0].get_yaxis_transform(), "ha": "center", "va": "center"}
    for y, subset in enumerate(SLICES):
        if subset not in set(seen):
            panels[0].text(0.5, y, "not trained", fontsize=8.5, color="0.5", **place)
    panels[1].axvline(0, color="0.5", linewidth=1, linestyle=":")
    panels[0].set_xlabel("AUROC, mean of classes")
    panels[1].set_xlabel("AUROC with all three slices\nminus AUROC with these")
    _name_rows(panels, [_slices_in_words(subset, slice_names) for subset in SLICES], fontsize=9)
    figure.legend(handles=_p_handles(_BLUE), loc="outside upper right", ncols=2, frameon=False)
    said = "; ".join(
        f"{_slices_in_words(row['channels'], slice_names)}: {_range(row)}"
        for _, row in alone.iterrows()
    ).replace("\n", " ")
    alt = f"Dots with intervals: AUROC, mean of classes, by the slices that a model sees: {said}."
    return drawing.finish(figure, note, alt)


def _slices_in_words(subset: str, slice_names: Sequence[str]) -> str:
    """Name a choice of slices such as ``0+2``, one per line."""
    if subset == SLICES[-1]:
        return "all three"
    return "\nand ".join(slice_names[int(index)] for index in subset.split("+"))


def _p_handles(colour: str) -> list[Line2D]:
    """Return the signs of a legend for differences that are, and are not, shown to be there."""
    look = {"color": colour, "marker": "o", "ls": ""}
    labels = {"corrected p below 0.05": colour, "not shown to differ": "white"}
    return [Line2D([], [], mfc=face, label=label, **look) for label, face in labels.items()]


def _interval(axes: Axes, row: tuple, y: float, colour: str, *, filled: bool) -> None:
    """Draw an estimate with its interval, and below it the extremes of single seeds."""
    axes.plot([row.low, row.high], [y, y], color="0.15", linewidth=1.5)
    axes.plot(row.estimate, y, "o", color=colour, markerfacecolor=colour if filled else "white")
    if row.seeds > 1:
        axes.plot([row.seed_low, row.seed_high], [y + 0.25] * 2, "|", color=colour, markersize=6)


def _name_rows(panels: Sequence[Axes], names: Sequence[str], **text: float) -> None:
    """Name the rows of intervals from the top, and keep the ticks below them few."""
    panels[0].set_yticks(range(len(names)), names, **text)
    panels[0].set_ylim(len(names) - 0.4, -0.6)
    for axes in panels:
        axes.locator_params(axis="x", nbins=5)
