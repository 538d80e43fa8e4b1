"""Figures of step 05: several models on the same test set."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hsc_utils.figures import style

# Paul Tol's muted set: colour-blind safe, and none of them is the colour of a class
_MODEL_COLOURS = ("#888888", "#44AA99", "#882255", "#DDCC77", "#332288", "#88CCEE", "#117733")
_LINES = ("-", "--", "-.", ":")


def model_colours(models: Sequence[str]) -> dict[str, str]:
    """Give each model a colour, in the order given."""
    return {model: _MODEL_COLOURS[k % len(_MODEL_COLOURS)] for k, model in enumerate(models)}


def roc_curves(
    curves: Mapping[tuple[str, str], tuple[np.ndarray, np.ndarray]],
    table: pd.DataFrame,
    note: str = "",
) -> Figure:
    """Draw ROC curves, one panel a class, one line a model (the paper's Figure 7).

    Parameters
    ----------
    curves : mapping
        (model, class) to false and true positive rates, from `comparison.roc_curves`.
    table : DataFrame
        From `comparison.compare`: AUROC and interval of each line.
    note : str
        Whose data these are.
    """
    models = list(dict.fromkeys(model for model, _ in curves))
    classes = list(dict.fromkeys(name for _, name in curves))
    colours = model_colours(models)
    rows = table[table["against"] == ""].set_index(["model", "score"])
    width = max(2.75 * len(classes), 4)
    figure, panels = style.new_figure(
        1, len(classes), size=(width, 2.9 + 0.33 * len(models)), squeeze=False
    )
    for axes, name in zip(panels[0], classes, strict=True):
        for index, model in enumerate(models):
            row = rows.loc[(model, f"auroc {name}")]
            label = f"{model}\n{row['estimate']:.3f} ({row['low']:.3f}–{row['high']:.3f})"
            style_ = {"color": colours[model], "linestyle": _LINES[index % len(_LINES)]}
            axes.plot(*curves[model, name], label=label, **style_)
        axes.plot([0, 1], [0, 1], color="0.8", linewidth=1, zorder=0)
        axes.set(title=name, xlabel="False positive rate", aspect="equal")
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
        axes.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.24), fontsize=7.5, frameon=False,
            title="AUROC (interval)", title_fontsize=7.5,
        )  # fmt: skip
    panels[0, 0].set_ylabel("True positive rate")
    return style.finish(figure, note)


def auroc_bars(table: pd.DataFrame, note: str = "") -> Figure:
    """Draw each model's AUROC with its interval, by class and their mean, as grouped bars."""
    rows = table[(table["against"] == "") & table["score"].str.startswith("auroc")]
    models, scores = (list(dict.fromkeys(rows[key])) for key in ("model", "score"))
    colours, width = model_colours(models), 0.8 / len(models)
    figure, axes = style.new_figure(size=(8, 3.4))
    for index, model in enumerate(models):
        ours = rows[rows["model"] == model].set_index("score").loc[scores]
        x = np.arange(len(scores)) + (index - (len(models) - 1) / 2) * width
        axes.bar(x, ours["estimate"], width * 0.94, color=colours[model], label=model)
        errors = np.abs(ours[["low", "high"]].to_numpy().T - ours["estimate"].to_numpy())
        axes.errorbar(x, ours["estimate"], errors, fmt="none", color="0.15", capsize=2.5, lw=1)
    axes.axhline(0.5, color="0.5", linewidth=1, linestyle=":")
    names = [score.removeprefix("auroc ").replace("auroc", "mean of classes") for score in scores]
    axes.set_xticks(range(len(scores)), names)
    axes.set(ylabel="AUROC, one class against the rest", ylim=(0, 1.02))
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, title="Model")
    return style.finish(figure, note)


def differences(table: pd.DataFrame, note: str = "") -> Figure:
    """Draw paired differences with intervals, a panel a score, filled where p (Holm) < 0.05."""
    rows = table[table["against"] != ""]
    scores = list(dict.fromkeys(rows["score"]))
    pairs = list(dict.fromkeys(zip(rows["model"], rows["against"], strict=True)))
    height = 1.4 + 0.3 * len(pairs)
    figure, panels = style.new_figure(
        1, len(scores), size=(8, height), squeeze=False, sharey=True
    )  # fmt: skip
    for axes, score in zip(panels[0], scores, strict=True):
        ours = rows[rows["score"] == score].set_index(["model", "against"]).loc[pairs]
        for y, row in enumerate(ours.itertuples()):
            axes.plot([row.low, row.high], [y, y], color="0.15", linewidth=1.5)
            face = "#0072B2" if row.p_holm < 0.05 else "white"
            axes.plot(row.estimate, y, "o", color="#0072B2", markerfacecolor=face)
        axes.axvline(0, color="0.5", linewidth=1, linestyle=":")
        name = score.replace("auroc", "AUROC").replace("_", " ")
        axes.set_xlabel(f"Difference in {name}")
    panels[0, 0].set_yticks(range(len(pairs)), [f"{a}\nminus {b}" for a, b in pairs], fontsize=8)
    panels[0, 0].set_ylim(len(pairs) - 0.5, -0.5)
    return style.finish(figure, note)


def slices(table: pd.DataFrame, runs: pd.DataFrame, note: str = "") -> Figure:
    """Draw AUROC by the slices a model sees, one line of points an architecture."""
    rows = table[(table["against"] == "") & (table["score"] == "auroc")]
    rows = rows.merge(runs.drop_duplicates("model")[["model", "architecture", "channels"]])
    subsets = sorted(rows["channels"].unique(), key=lambda c: (c.count("+"), c))
    architectures = list(dict.fromkeys(rows["architecture"]))
    colours = model_colours(architectures)
    figure, axes = style.new_figure(size=(7, 3.2))
    for index, name in enumerate(architectures):
        ours = rows[rows["architecture"] == name]
        x = ours["channels"].map(subsets.index) + 0.12 * (index - (len(architectures) - 1) / 2)
        errors = np.abs(ours[["low", "high"]].to_numpy().T - ours["estimate"].to_numpy())
        axes.errorbar(
            x, ours["estimate"], errors, fmt="o", capsize=3, color=colours[name], label=name
        )
    axes.set_xticks(range(len(subsets)), [f"slice {subset}" for subset in subsets])
    axes.set(
        ylabel="AUROC, mean of classes",
        xlabel="Slices the model sees",
        xlim=(-0.5, len(subsets) - 0.5),
    )
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, title="Backbone")
    return style.finish(figure, note)
