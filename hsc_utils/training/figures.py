"""Figures of steps 03 and 04: training, scores and mistakes of one model.

The `note` of each says whose data are drawn.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hsc_utils import drawing

_TRAIN, _VALIDATION = "0.55", "#0072B2"
_PREDICTED = "#D55E00"


def augmented(pictures: np.ndarray, note: str = "") -> Figure:
    """Show samples as stored (top row) and as the model sees them in training (below).

    Parameters
    ----------
    pictures : uint8 (R, N, H, W, 3)
        From `training.augmented_pictures`.
    """
    rows, columns = pictures.shape[:2]
    figure, panels = drawing.picture_grid(
        rows,
        columns,
        size=(8, 8 / columns * rows),
        labels=["as stored", *(f"epoch {row}" for row in range(1, rows))],
    )
    for axes, picture in zip(panels.flat, pictures.reshape(-1, *pictures.shape[2:]), strict=True):
        axes.imshow(picture)
    return drawing.finish(figure, note)


def learning_curves(history: pd.DataFrame, note: str = "") -> Figure:
    """Draw losses and validation scores by epoch (`Run.history`), the kept epoch marked."""
    figure, (losses, scores) = drawing.new_figure(1, 2, size=(8, 2.9))
    best = history.loc[history["val_loss"].idxmin(), "epoch"]
    few = {"marker": "."} if len(history) < 20 else {}  # a single epoch is no line
    losses.plot(history["epoch"], history["train_loss"], color=_TRAIN, label="training", **few)
    losses.plot(history["epoch"], history["val_loss"], color=_VALIDATION, label="validation", **few)
    losses.set(xlabel="Epoch", ylabel="Cross-entropy (nats)", ylim=(0, None))
    names = {"val_auroc": "AUROC", "val_balanced_accuracy": "balanced accuracy"}
    for (column, name), line in zip(names.items(), ("-", "--"), strict=True):
        scores.plot(history["epoch"], history[column], line, color=_VALIDATION, label=name, **few)
    scores.set(xlabel="Epoch", ylabel="Validation score", ylim=(None, 1.01))
    for axes in (losses, scores):
        axes.axvline(best, color="0.8", zorder=0, label=f"kept: epoch {best}")
        axes.legend(frameon=False, fontsize=8)
        axes.xaxis.get_major_locator().set_params(integer=True)
    return drawing.finish(figure, note)


def confusion(
    counts: Sequence[Sequence[int]], class_names: Sequence[str], note: str = ""
) -> Figure:
    """Draw a confusion matrix in counts and as shares of each true class.

    For cells this is the counterpart of the paper's Figure 6.

    Parameters
    ----------
    counts : (K, K)
        Samples by true class (rows) and predicted class (columns).
    class_names : sequence of str
        The K classes.
    """
    import seaborn as sns  # as in `drawing.new_figure`

    counts = np.asarray(counts)
    totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shares = np.char.mod("%.0f %%", 100 * counts / totals)
    shares[counts.sum(axis=1) == 0] = "–"  # a class without a sample has no shares
    side = max(2.6, 0.65 * len(class_names) + 0.8)
    figure, panels = drawing.new_figure(1, 2, size=(min(2 * side + 1.4, 9), side))
    titles = ("Samples", "Share of the true class")
    for axes, text, title in zip(panels, (counts, shares), titles, strict=True):
        sns.heatmap(
            counts / totals,
            annot=text,
            fmt="",
            cmap="Blues",
            vmin=0,
            vmax=1,
            cbar=False,
            square=True,
            linewidths=1,
            xticklabels=class_names,
            yticklabels=class_names,
            ax=axes,
        )
        axes.set(title=title, xlabel="Predicted", ylabel="True")
        axes.tick_params(length=0)
        axes.tick_params(axis="y", rotation=0)
        axes.spines[:].set_linewidth(0)
        if len(class_names) > 3:
            axes.tick_params(axis="x", rotation=45)
    return drawing.finish(figure, note)


def roc_and_precision_recall(curves: Mapping[str, dict], note: str = "") -> Figure:
    """Draw ROC and precision-recall curves, one line a class, from `training.curves`."""
    figure, (roc, pr) = drawing.new_figure(1, 2, size=(8, 4))
    colours = drawing.class_colours(list(curves))
    for name, curve in curves.items():
        colour = colours[name]
        roc.plot(curve["fpr"], curve["tpr"], color=colour, label=f"{name}: {curve['auroc']:.3f}")
        label = f"{name}: {curve['average_precision']:.3f}"
        pr.step(curve["recall"], curve["precision"], color=colour, where="post", label=label)
        pr.axhline(curve["share"], color=colour, linewidth=0.8, linestyle=":")
    roc.plot([0, 1], [0, 1], color="0.6", linewidth=0.8, linestyle=":")
    roc.set(xlabel="False positive rate", ylabel="True positive rate")
    pr.set(xlabel="Recall", ylabel="Precision")
    for axes, title in ((roc, "AUROC"), (pr, "average precision")):
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02), aspect="equal")
        if curves:  # a subset of one class has none
            axes.legend(
                title=title, fontsize=8, title_fontsize=8, loc="lower right", edgecolor="none"
            )
    return drawing.finish(figure, note)


def reliability(table: pd.DataFrame, note: str = "") -> Figure:
    """Draw accuracy against confidence, from `training.reliability`."""
    figure, (axes, counts) = drawing.new_figure(
        2, 1, size=(4, 4.6), sharex=True, gridspec_kw={"height_ratios": (4, 1)}
    )
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    curves = table.groupby("probabilities", sort=False)
    for (name, curve), colour in zip(curves, (_PREDICTED, _VALIDATION), strict=False):
        sizes = 12 + 150 * curve["samples"] / curve["samples"].sum()
        axes.scatter(curve["confidence"], curve["accuracy"], sizes, color=colour)
        axes.plot(curve["confidence"], curve["accuracy"], color=colour, linewidth=1, label=name)
        counts.bar(curve["confidence"], curve["samples"], width=0.03, color=colour, alpha=0.6)
    axes.set(ylabel="Share that is right", xlim=(0, 1.02), ylim=(-0.04, 1.05))
    axes.legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1, 1))
    counts.set(xlabel="Probability of the predicted class", ylabel="Samples")
    return drawing.finish(figure, note)


def mistakes(pictures: np.ndarray, table: pd.DataFrame, note: str = "") -> Figure:
    """Show wrongly classified samples, six in a row, with their true and predicted class.

    Parameters
    ----------
    pictures : uint8 (N, H, W, 3)
        The samples, as stored.
    table : DataFrame
        From `training.confident_mistakes`, one row a picture.
    """
    rows = max(1, -(-len(pictures) // 6))
    figure, panels = drawing.picture_grid(rows, 6, size=(8, 1.85 * rows))
    for axes, picture, row in zip(panels.flat, pictures, table.to_dict("records"), strict=False):
        axes.imshow(picture)
        title = f"is {row['class']}\nsaid {row['predicted']} ({row['confidence']:.0%})"
        axes.set_title(title, fontsize=7.5)
    return drawing.finish(figure, note)
