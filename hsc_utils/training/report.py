"""What a notebook says of a finished run: tables and sentences made from its stored files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import (
    average_precision_score,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from hsc_utils import metrics, paper
from hsc_utils.files import shown_path

_SCORE_NAMES = {
    "balanced_accuracy": "balanced accuracy (the paper's)",
    "balanced_accuracy_sklearn": "balanced accuracy (scikit-learn's)",
    "auroc": "AUROC (mean of one-vs-rest)",
    "accuracy": "accuracy",
    "f1": "F1 (mean over classes)",
    "ece": "expected calibration error",
}


def score_table(scores: Mapping, level: str, architecture: str) -> pd.DataFrame:
    """Set a run's test scores, with their intervals, beside what the paper reports.

    Parameters
    ----------
    scores : mapping
        ``metrics.json`` of the run, subset ``test``.
    level, architecture : str
        Which of the paper's models to set beside; it is blank where its text gives none.

    Returns
    -------
    DataFrame
        One row a score: ``this run``, ``95 % interval`` and ``paper, on its own data``.
    """
    reported = paper.scores()
    known = reported.loc[(level, architecture)] if (level, architecture) in reported.index else {}
    rows = {
        name: {
            "this run": f"{scores[key]:.3f}",
            "95 % interval": "{:.3f} to {:.3f}".format(*scores["intervals"][key]),
            "paper, on its own data": f"{known[key]:.3f}" if key in known else "not given",
        }
        for key, name in _SCORE_NAMES.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("test score")


def class_table(scores: Mapping) -> pd.DataFrame:
    """Tabulate samples, sensitivity, specificity, F1 and AUROC by class."""
    return pd.DataFrame.from_dict(scores["per_class"], orient="index").rename_axis("class").round(3)


def sentence(scores: Mapping, class_names: Sequence[str], samples: str) -> str:
    """Say in plain words what the test scores mean and how far they can be trusted.

    Parameters
    ----------
    scores : mapping
        ``metrics.json`` of the run, subset ``test``.
    class_names : sequence of str
        The classes, in the order of the confusion matrix.
    samples : str
        What was classified: ``images`` or ``cells``.
    """
    confusion = np.array(scores["confusion"])
    low, high = scores["intervals"]["auroc"]
    commonest = confusion.sum(1).max() / confusion.sum()
    text = (
        f"Of {scores['samples']} test {samples}, {scores['accuracy']:.0%} are given their class "
        f"(always naming the commonest would reach {commonest:.0%}). "
        f"A sample of a class ranks above one of another class {scores['auroc']:.0%} of the time; "
        f"by resampling images, {low:.0%} to {high:.0%}. "
    )
    if low <= 0.5:
        text += "That interval includes guessing: nothing has been shown to be learnt. "
    wrong = confusion * (1 - np.eye(len(confusion), dtype=int))
    if wrong.any():
        true, predicted = np.unravel_index(wrong.argmax(), wrong.shape)
        text += (
            f"The commonest mistake is {class_names[true]} taken for {class_names[predicted]} "
            f"({wrong.max()} of {confusion[true].sum()}). "
        )
    if scores["left_out"]:
        text += (
            f"No test sample belongs to {', '.join(scores['left_out'])}, so no score covers that. "
        )
    return text.strip()


def curves(predictions: pd.DataFrame, class_names: Sequence[str]) -> dict[str, dict]:
    """Trace ROC and precision-recall curves, one-vs-rest, of every class with a true sample.

    Returns
    -------
    dict
        By class: arrays ``fpr``, ``tpr``, ``recall`` and ``precision``, and the numbers
        ``auroc``, ``average_precision`` and ``share`` (of the samples, in [0, 1]).
    """
    traced = {}
    for name in class_names:
        positive, ranked = predictions["class"] == name, predictions[f"p_{name}"]
        if not positive.any() or positive.all():
            continue
        fpr, tpr, _ = roc_curve(positive, ranked)
        precision, recall, _ = precision_recall_curve(positive, ranked)
        traced[name] = {
            **{"fpr": fpr, "tpr": tpr, "recall": recall, "precision": precision},
            "auroc": roc_auc_score(positive, ranked),
            "average_precision": average_precision_score(positive, ranked),
            "share": positive.mean(),
        }
    return traced


def confident_mistakes(
    predictions: pd.DataFrame, class_names: Sequence[str], count: int, subset: str = "test"
) -> pd.DataFrame:
    """List the wrong predictions of highest probability.

    Returns
    -------
    DataFrame
        At most `count` rows of `predictions` with ``predicted`` and ``confidence``, the most
        confident first; the index is the row in `predictions`.
    """
    chosen = predictions[predictions["split"] == subset].copy()
    probabilities = metrics.probability_matrix(chosen, class_names)
    chosen["predicted"] = np.array(class_names)[probabilities.argmax(1)]
    chosen["confidence"] = probabilities.max(1)
    wrong = chosen[chosen["predicted"] != chosen["class"]]
    return wrong.sort_values("confidence", ascending=False, kind="stable").head(count)


def vote(predictions: pd.DataFrame, class_names: Sequence[str]) -> pd.DataFrame:
    """Let the cells of each image vote: an image's probabilities are the mean of its cells'.

    Returns
    -------
    DataFrame
        One row an image, with the columns of `predictions` and ``cells``, their number.
    """
    columns = {f"p_{name}": (f"p_{name}", "mean") for name in class_names}
    votes = predictions.groupby(["image_id", "class", "split"], sort=False).agg(
        cells=("id", "size"), **columns
    )
    votes = votes.reset_index()
    votes.insert(0, "id", votes["image_id"])
    return votes


def levels_side_by_side(
    votes: pd.DataFrame, image_run: Path, class_names: Sequence[str], subset: str = "test"
) -> pd.DataFrame:
    """Score cells voted into images beside an image-level model, on the images both know.

    Parameters
    ----------
    votes : DataFrame
        From `vote`.
    image_run : Path
        Run directory of an image-level model, anchored at the repository root.
    class_names : sequence of str
        The classes.
    subset : str
        Subset to score.

    Returns
    -------
    DataFrame
        One row a model with its scores and their intervals; one row alone where the
        image-level run does not exist or knows none of these images.

    Raises
    ------
    ValueError
        If an image is in that subset for one of the two models only by another split.
    """
    tables = {"cells, voted into images": votes[votes["split"] == subset]}
    if (image_run / "predictions.parquet").exists():
        of_images = pd.read_parquet(image_run / "predictions.parquet")
        splits = votes.merge(of_images, on="image_id", suffixes=("", "_image"))
        if (splits["split"] != splits["split_image"]).any():
            raise ValueError(
                f"{shown_path(image_run)} was trained on another split than these cells: train it "
                "again with notebook 03."
            )
        shared = splits.loc[splits["split"] == subset, "image_id"]
        if len(shared):
            tables["image-level model"] = of_images
            tables = {name: t[t["image_id"].isin(shared)] for name, t in tables.items()}
    rows = {}
    for name, table in tables.items():
        arguments = (table["class"], metrics.probability_matrix(table, class_names), class_names)
        scores = metrics.score(*arguments)
        intervals = metrics.intervals(*arguments, table["image_id"], resamples=2000)
        rows[name] = {"images": len(table)} | {
            _SCORE_NAMES[key]: "{:.3f} ({:.3f} to {:.3f})".format(scores[key], *intervals[key])
            for key in ("balanced_accuracy", "auroc")
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")
