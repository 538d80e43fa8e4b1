"""Figures of step 05: several models on the same test set."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hsc_utils import drawing
from hsc_utils.study import SLICES

# Paul Tol's muted set: colour-blind safe, and none of them is the colour of a class
_MODEL_COLOURS = ("#888888", "#44AA99", "#882255", "#DDCC77", "#332288", "#88CCEE", "#117733")
_SCORE_NAMES = {"auroc": "AUROC", "balanced_accuracy": "balanced accuracy"}
_LINES = ("-", "--", "-.", ":")


def _model_colours(models: Sequence[str]) -> dict[str, str]:
    """Give each model a colour, in the order given."""
    return {model: _MODEL_COLOURS[k % len(_MODEL_COLOURS)] for k, model in enumerate(models)}


def roc_curves(
    curves: Mapping[tuple[str, str], tuple[np.ndarray, np.ndarray]],
    table: pd.DataFrame,
    note: str = "",
) -> Figure:
    """Draw ROC curves, one panel a class, one line a model (the paper's Figure 7).

    The legends give each line's AUROC with its interval, from `comparison.compare`.
    """
    models = list(dict.fromkeys(model for model, _ in curves))
    classes = list(dict.fromkeys(name for _, name in curves))
    colours = _model_colours(models)
    rows = table[table["against"] == ""].set_index(["model", "score"])
    # the legends have a row of their own, so that nothing else can lie over them
    heights = 2.6, 0.3 + 0.36 * len(models)
    size = max(2.75 * len(classes), 4), sum(heights) + 0.3
    figure, panels = drawing.new_figure(
        2, len(classes), size=size, squeeze=False, height_ratios=heights
    )
    for (axes, below), name in zip(panels.T, classes, strict=True):
        for index, model in enumerate(models):
            row = rows.loc[(model, f"auroc {name}")]
            interval = f"{row['low']:.3f}–{row['high']:.3f}"
            interval = "no interval" if np.isnan(row["low"]) else interval
            label = f"{model}\n{row['estimate']:.3f} ({interval})"
            line = {"color": colours[model], "linestyle": _LINES[index % len(_LINES)]}
            axes.plot(*curves[model, name], label=label, **line)
        axes.plot([0, 1], [0, 1], color="0.8", linewidth=1, zorder=0)
        axes.set(xlabel="False positive rate", aspect="equal")
        axes.set_title(name, parse_math=False)
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
        below.set_axis_off()
        small = {"fontsize": 7.5, "title_fontsize": 7.5, "title": "AUROC (interval)"}
        handles = axes.get_legend_handles_labels()
        below.legend(*handles, loc="upper center", frameon=False, **small)
    panels[0, 0].set_ylabel("True positive rate")
    return drawing.finish(figure, note)


def auroc_bars(table: pd.DataFrame, note: str = "") -> Figure:
    """Draw each model's AUROC with its interval, by class and their mean, as grouped bars."""
    rows = table[(table["against"] == "") & table["score"].str.startswith("auroc")]
    models, scores = rows["model"].unique(), rows["score"].unique()
    colours, width = _model_colours(models), 0.8 / len(models)
    figure, axes = drawing.new_figure(size=(8, 3.4))
    for index, model in enumerate(models):
        ours = rows[rows["model"] == model].set_index("score").loc[scores]
        x = np.arange(len(scores)) + (index - (len(models) - 1) / 2) * width
        axes.bar(x, ours["estimate"], width * 0.94, color=colours[model], label=model)
        errors = np.abs(ours[["low", "high"]].to_numpy().T - ours["estimate"].to_numpy())
        axes.errorbar(x, ours["estimate"], errors, fmt="none", color="0.15", capsize=2.5, lw=1)
    axes.axhline(0.5, color="0.5", linewidth=1, linestyle=":")
    names = ["mean of classes" if s == "auroc" else s.removeprefix("auroc ") for s in scores]
    axes.set_xticks(range(len(scores)), names, parse_math=False)
    axes.set(ylabel="AUROC, one class against the rest", ylim=(0, 1.02))
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, title="Model")
    return drawing.finish(figure, note)


def differences(table: pd.DataFrame, note: str = "") -> Figure:
    """Draw differences with intervals, a panel a score, filled where p (Holm) < 0.05.

    A single model leaves nothing but a sentence to draw.
    """
    rows = table[table["against"] != ""]
    if rows.empty:
        figure, axes = drawing.new_figure(size=(8, 1))
        axes.set_axis_off()
        text = f"One model, {', '.join(table['model'].unique())}: there is no difference to draw."
        axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes)
        return drawing.finish(figure, note)
    scores = rows["score"].unique()
    pairs = list(dict.fromkeys(zip(rows["model"], rows["against"], strict=True)))
    size = 8, 1.5 + 0.42 * len(pairs)
    figure, panels = drawing.new_figure(1, len(scores), size=size, squeeze=False, sharey=True)
    for axes, score in zip(panels[0], scores, strict=True):
        ours = rows[rows["score"] == score].set_index(["model", "against"]).loc[pairs]
        for y, row in enumerate(ours.itertuples()):
            _interval(axes, row, y, "#0072B2", filled=row.p_holm < 0.05)
        axes.axvline(0, color="0.5", linewidth=1, linestyle=":")
        axes.set_xlabel(f"Difference in {_SCORE_NAMES[score]}")
    _name_rows(panels[0], [f"{model}\nminus {against}" for model, against in pairs], fontsize=8)
    return drawing.finish(figure, note)


def slices(table: pd.DataFrame, runs: pd.DataFrame, note: str = "") -> Figure:
    """Draw AUROC by the slices a model sees, and what all three add to each choice of fewer.

    `table` has the model that sees all slices as baseline; choices without one of `runs` are
    named as not trained.
    """
    seen = runs.drop_duplicates("model").set_index("model")["channels"]
    rows = table[table["score"] == "auroc"]
    alone = rows[rows["against"] == ""].assign(channels=lambda t: t["model"].map(seen))
    added = rows[rows["against"] != ""].assign(channels=lambda t: t["against"].map(seen))
    figure, panels = drawing.new_figure(1, 2, size=(8, 3.9), sharey=True)
    for axes, ours, colour in zip(panels, (alone, added), ("#882255", "#0072B2"), strict=True):
        for row in ours.itertuples():
            filled = row.against == "" or row.p_holm < 0.05
            _interval(axes, row, SLICES.index(row.channels), colour, filled=filled)
    place = {"transform": panels[0].get_yaxis_transform(), "ha": "center", "va": "center"}
    for y, subset in enumerate(SLICES):
        if subset not in set(seen):
            panels[0].text(0.5, y, "not trained", fontsize=8, color="0.5", **place)
    panels[1].axvline(0, color="0.5", linewidth=1, linestyle=":")
    panels[0].set_xlabel("AUROC, mean of classes")
    panels[1].set_xlabel("AUROC with all three slices\nminus AUROC with these")
    _name_rows(panels, [f"slice {s.replace('+', ' + ')}" for s in SLICES[:-1]] + ["all three"])
    return drawing.finish(figure, note)


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
