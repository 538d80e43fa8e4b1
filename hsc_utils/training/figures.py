"""Figures of steps 03 and 04: training, scores and mistakes of one model.

The `note` of each says whose data are drawn.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from hsc_utils import drawing, paper

_TRAIN, _VALIDATION = "0.55", "#0072B2"
_PREDICTED = "#D55E00"


def augmented(pictures: np.ndarray, note: str = "") -> drawing.Figure:
    """Show samples as stored, and stretched for the eye as stored and as training varies them.

    Parameters
    ----------
    pictures : uint8 (R, N, H, W, 3)
        From `training.augmented_pictures`: as stored, then as the model sees them, epoch by epoch.
        All are stretched alike.
    note : str
        Whose data these are.
    """
    epochs, columns = len(pictures) - 1, pictures.shape[1]
    shown = np.concatenate([pictures[:1], drawing.stretched(pictures)])
    side = min(7.6 / columns, 6.6 / len(shown))
    figure, panels = drawing.picture_grid(
        len(shown),
        columns,
        size=(side * columns + 0.4, side * len(shown) + 0.5),
        labels=["as stored", "stretched", *(f"epoch {epoch + 1}" for epoch in range(epochs))],
    )
    for axes, picture in zip(panels.flat, shown.reshape(-1, *pictures.shape[2:]), strict=True):
        axes.imshow(picture)
    figure.suptitle("Top row as stored; below it all stretched alike for the eye", fontsize=9.5)
    alt = (
        f"Micrographs of {columns} training samples: as stored, the same stretched for the eye, "
        f"and in {epochs} rows as {epochs} epochs of training see them: flipped, turned, shifted "
        "and zoomed at random."
    )
    return drawing.finish(figure, note, alt)


def learning_curves(history: pd.DataFrame, note: str = "") -> drawing.Figure:
    """Draw losses and validation scores by epoch (`Run.history`), the kept epoch marked."""
    figure, (losses, scores) = drawing.new_figure(1, 2, size=(8, 3.3))
    kept = history.loc[history["val_loss"].idxmin()]
    few = {"marker": "."} if len(history) < 20 else {}  # a single epoch is no line
    losses.plot(history["epoch"], history["train_loss"], color=_TRAIN, label="training", **few)
    losses.plot(history["epoch"], history["val_loss"], color=_VALIDATION, label="validation", **few)
    losses.set(title="Loss", ylabel="Cross-entropy (nats)", ylim=(0, None))
    names = {"val_auroc": "AUROC", "val_balanced_accuracy": "balanced accuracy"}
    for (column, name), line in zip(names.items(), ("-", "--"), strict=True):
        scores.plot(history["epoch"], history[column], line, color=_VALIDATION, label=name, **few)
    scores.set(title="Scores on the validation subset", ylabel="Score", ylim=(None, 1.01))
    for axes in (losses, scores):
        axes.axvline(kept["epoch"], color="0.8", zorder=0, label=f"kept: epoch {kept['epoch']:.0f}")
        axes.legend(frameon=False, fontsize=9)
        axes.set_xlabel("Epoch")
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    first = history.iloc[0]
    alt = (
        f"Learning curves of {len(history)} epochs. From the first epoch to the kept one, "
        f"{kept['epoch']:.0f}, the loss of the validation subset goes from "
        f"{first['val_loss']:.2f} to {kept['val_loss']:.2f}, its "
    ) + " and its ".join(
        f"{name} from {first[column]:.2f} to {kept[column]:.2f}" for column, name in names.items()
    )
    return drawing.finish(figure, note, f"{alt}.")


def confusion(
    counts: Sequence[Sequence[int]], class_names: Sequence[str], note: str = ""
) -> drawing.Figure:
    """Draw a confusion matrix in counts and as shares of each true class.

    For cells this is the counterpart of the paper's Figure 6.

    Parameters
    ----------
    counts : (K, K)
        Samples by true class (rows) and predicted class (columns).
    class_names : sequence of str
        The K classes, in the order of `counts`; they are drawn in that of `paper.class_order`.
    note : str
        Whose data these are.
    """
    import seaborn as sns  # as in `drawing.new_figure`

    names = paper.class_order(class_names)
    counts = pd.DataFrame(counts, class_names, class_names).loc[names, names]
    totals = counts.sum(axis=1)
    shares = counts.div(totals.clip(lower=1), axis=0)
    texts = counts.astype(str) + "\n" + shares.map("{:.0%}".format)
    texts[totals == 0] = "–"  # a class without a sample has no shares
    side = min(max(3.8, 0.8 * len(names) + 1.4), 7.2)
    figure, axes = drawing.new_figure(size=(side + 0.8, side))
    sns.heatmap(
        shares,
        annot=texts,
        annot_kws={"fontsize": 10, "linespacing": 1.3},
        fmt="",
        cmap="Blues",
        vmin=0,
        vmax=1,
        cbar=False,
        square=True,
        linewidths=1.5,
        yticklabels=[f"{name}\n({total} samples)" for name, total in totals.items()],
        ax=axes,
    )
    axes.set(xlabel="Predicted class", ylabel="True class")
    axes.set_title("Samples, and their share of the true class", fontsize=10)
    axes.tick_params(length=0, labelsize=9)
    axes.tick_params(axis="y", rotation=0)
    axes.tick_params(axis="x", rotation=45 * (len(names) > 3))
    axes.spines[:].set_linewidth(0)
    return drawing.finish(figure, note, _confusion_in_words(counts))


def _confusion_in_words(counts: pd.DataFrame) -> str:
    """Say how many of each true class are called so, and what the commonest mistake is."""
    right = ", ".join(
        f"{row[name]} of {row.sum()} {name}" for name, row in counts.iterrows() if row.sum()
    )
    text = f"Confusion matrix. Given their own class are {right}."
    wrong = counts.to_numpy() * ~np.eye(len(counts), dtype=bool)
    if wrong.any():
        true, called = np.unravel_index(wrong.argmax(), wrong.shape)
        names = list(counts)
        text += f" The commonest mistake: {wrong.max()} {names[true]} taken for {names[called]}."
    return text


def roc_and_precision_recall(curves: Mapping[str, dict], note: str = "") -> drawing.Figure:
    """Draw ROC and precision-recall curves, one line per class, from `training.curves`."""
    figure, (roc, pr) = drawing.new_figure(1, 2, size=(8, 4.3))
    names = paper.class_order(curves)
    colours = drawing.class_colours(names)
    for name in names:
        curve, colour = curves[name], colours[name]
        roc.plot(curve["fpr"], curve["tpr"], color=colour, label=f"{name}: {curve['auroc']:.3f}")
        label = f"{name}: {curve['average_precision']:.3f}"
        pr.step(curve["recall"], curve["precision"], color=colour, where="post", label=label)
        pr.axhline(curve["share"], color=colour, linewidth=0.8, linestyle=":")
    roc.plot([0, 1], [0, 1], color="0.6", linewidth=0.8, linestyle=":")
    roc.set(title="ROC curves", xlabel="False positive rate", ylabel="True positive rate")
    pr.set(title="Precision-recall curves", xlabel="Recall", ylabel="Precision")
    for axes, title in ((roc, "AUROC"), (pr, "Average precision")):
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02), aspect="equal")
        if curves:  # a subset of one class has none
            style = {"alignment": "left", "edgecolor": "none", "framealpha": 0.9}
            axes.legend(title=title, fontsize=10, title_fontsize=10, loc="lower right", **style)
    if not curves:
        return drawing.finish(figure, note, "No curve: the samples are of one class alone.")
    alt = "ROC and precision-recall curves of each class against the rest; dotted: guessing. " + (
        "; ".join(
            f"{name}: AUROC {curves[name]['auroc']:.2f}, average precision "
            f"{curves[name]['average_precision']:.2f} (guessing: {curves[name]['share']:.2f})"
            for name in names
        )
    )
    return drawing.finish(figure, note, f"{alt}.")


def reliability(table: pd.DataFrame, note: str = "") -> drawing.Figure:
    """Draw accuracy against confidence, from `training.reliability`."""
    figure, (axes, counts) = drawing.new_figure(
        2, 1, size=(5, 5.6), sharex=True, gridspec_kw={"height_ratios": (4, 1)}
    )
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    look = {"rotation_mode": "anchor", "color": "0.4", "fontsize": 9}
    axes.text(0.17, 0.19, "calibrated", rotation=45, transform_rotates_text=True, **look)
    curves, said = table.groupby("probabilities", sort=False), []
    for (name, curve), colour in zip(curves, (_PREDICTED, _VALIDATION), strict=False):
        sizes = 12 + 150 * curve["samples"] / curve["samples"].sum()
        axes.scatter(curve["confidence"], curve["accuracy"], sizes, color=colour)
        axes.plot(curve["confidence"], curve["accuracy"], color=colour, linewidth=1, label=name)
        counts.bar(curve["confidence"], curve["samples"], width=0.03, color=colour, alpha=0.6)
        most = curve.loc[curve["samples"].idxmax()]
        said.append(
            f"{str(name).capitalize()}; of the largest group, {most['samples']:.0f} samples with a "
            f"mean probability of {most['confidence']:.2f}, {most['accuracy']:.0%} are right"
        )
    axes.set(ylabel="Share that is right", xlim=(0, 1.02), ylim=(-0.04, 1.05))
    axes.legend(frameon=False, fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1))
    counts.set(xlabel="Probability of the predicted class", ylabel="Samples")
    alt = "Reliability diagram: the share that is right against the probability predicted. "
    return drawing.finish(figure, note, f"{alt}{'. '.join(said)}.")


def mistakes(pictures: np.ndarray, table: pd.DataFrame, note: str = "") -> drawing.Figure:
    """Show wrongly classified samples, six per row, with their true and predicted class.

    Parameters
    ----------
    pictures : uint8 (N, H, W, 3)
        The samples, as stored; they are stretched alike.
    table : DataFrame
        From `training.confident_mistakes`, one row per picture.
    note : str
        Whose data these are.
    """
    if not len(pictures):
        figure, axes = drawing.new_figure(size=(8, 1))
        axes.set_axis_off()
        text = "No sample is classified wrongly, so there is none to show."
        axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes)
        return drawing.finish(figure, note, text)
    rows = -(-len(pictures) // 6)
    figure, panels = drawing.picture_grid(rows, 6, size=(8, 1.76 * rows + 0.35))
    records = table.to_dict("records")
    for axes, picture, row in zip(panels.flat, drawing.stretched(pictures), records, strict=False):
        axes.imshow(picture)
        title = f"is {row['class']}\nsaid {row['predicted']} ({row['confidence']:.0%})"
        axes.set_title(title, fontsize=8)
    figure.suptitle("All stretched alike for the eye", fontsize=9.5)
    kinds = (table["class"] + " taken for " + table["predicted"]).value_counts()
    alt = (
        f"Micrographs of the {len(pictures)} wrong predictions of highest probability, "
        f"{table['confidence'].min():.0%} to {table['confidence'].max():.0%}: "
    ) + ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    return drawing.finish(figure, note, f"{alt}.")
