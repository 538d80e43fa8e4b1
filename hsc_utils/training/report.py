"""What a notebook says of a finished run: tables and sentences made from its stored files."""

import numpy as np
import pandas as pd
from sklearn import metrics as sklearn_metrics

from hsc_utils import metrics, paper
from hsc_utils.study import Run

_SCORE_NAMES = {
    "balanced_accuracy": "balanced accuracy (the paper's)",
    "balanced_accuracy_sklearn": "balanced accuracy (scikit-learn's)",
    "auroc": "AUROC (mean of one-vs-rest)",
    "accuracy": "accuracy",
    "f1": "F1 (mean over classes)",
    "ece": "expected calibration error",
}


def score_table(run: Run) -> pd.DataFrame:
    """Set a run's test scores, with their intervals, beside what the paper reports of that model.

    Returns
    -------
    DataFrame
        One row a score: ``this run``, ``95 % interval`` and ``paper, on its own data``.
    """
    scores, reported = run.scores["test"], paper.scores()
    model = (run.config.level, run.config.architecture)
    known = reported.loc[model] if model in reported.index else {}
    rows = {
        name: {
            "this run": f"{scores[key]:.3f}",
            "95 % interval": "{:.3f} to {:.3f}".format(*scores["intervals"][key]),
            "paper, on its own data": f"{known[key]:.3f}" if key in known else "not given",
        }
        for key, name in _SCORE_NAMES.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("test score")


def sentence(run: Run) -> str:
    """Say in plain words what the test scores of a finished run mean, and how far to trust them."""
    scores, class_names = run.scores["test"], run.config.class_names
    confusion = np.array(scores["confusion"])
    low, high = scores["intervals"]["auroc"]
    commonest = confusion.sum(1).max() / confusion.sum()
    text = (
        f"Of {scores['samples']} test {run.config.level}s, {scores['accuracy']:.0%} are given "
        f"their class (always naming the commonest would reach {commonest:.0%}). "
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


def curves(run: Run) -> dict[str, dict]:
    """Trace ROC and precision-recall curves on the test subset, one-vs-rest.

    Returns
    -------
    dict
        By class that has a true sample: arrays ``fpr``, ``tpr``, ``recall`` and ``precision``,
        and the numbers ``auroc``, ``average_precision`` and ``share`` (of the samples), all in
        [0, 1].
    """
    test, traced = _of_test(run), {}
    for name in run.config.class_names:
        positive, ranked = test["class"] == name, test[f"p_{name}"]
        if not positive.any() or positive.all():
            continue
        fpr, tpr, _ = sklearn_metrics.roc_curve(positive, ranked)
        precision, recall, _ = sklearn_metrics.precision_recall_curve(positive, ranked)
        traced[name] = {
            "fpr": fpr,
            "tpr": tpr,
            "recall": recall,
            "precision": precision,
            "auroc": sklearn_metrics.roc_auc_score(positive, ranked),
            "average_precision": sklearn_metrics.average_precision_score(positive, ranked),
            "share": positive.mean(),
        }
    return traced


def reliability(run: Run) -> pd.DataFrame:
    """Tabulate confidence against accuracy on the test subset, as `metrics.reliability` does."""
    test, class_names = _of_test(run), run.config.class_names
    probabilities = metrics.probability_matrix(test, class_names)
    return metrics.reliability(test["class"], probabilities, class_names)


def confident_mistakes(run: Run, count: int) -> pd.DataFrame:
    """List the wrong predictions of highest probability on the test subset.

    Parameters
    ----------
    run : Run
        A finished run.
    count : int
        At most so many.

    Returns
    -------
    DataFrame
        Rows of `Run.predictions` with ``predicted`` and ``confidence`` (in [0, 1]), the most
        confident first; the index is the row there, as in the table that was trained on.
    """
    test = _of_test(run)
    probabilities = metrics.probability_matrix(test, run.config.class_names)
    predicted = np.array(run.config.class_names)[probabilities.argmax(1)]
    test = test.assign(predicted=predicted, confidence=probabilities.max(1))
    wrong = test[test["predicted"] != test["class"]]
    return wrong.sort_values("confidence", ascending=False, kind="stable").head(count)


def levels_side_by_side(cell_run: Run, image_run: Run) -> pd.DataFrame:
    """Score cells voted into images beside an image-level model, on the test images both know.

    Parameters
    ----------
    cell_run : Run
        A finished run on cells.
    image_run : Run
        One on images, which need not exist.

    Returns
    -------
    DataFrame
        One row a model with its scores and their intervals; one row alone where the
        image-level run does not exist or knows none of these images.

    Raises
    ------
    ValueError
        If an image is in another subset for one of the two models.
    """
    class_names = cell_run.config.class_names
    votes = vote(cell_run)
    tables = {"cells, voted into images": votes[votes["split"] == "test"]}
    if image_run.predictions_file.exists():
        of_images = image_run.predictions
        both = votes.merge(of_images, on="image_id", suffixes=("", "_image"))
        if (both["split"] != both["split_image"]).any():
            raise ValueError(
                f"{image_run} was trained on another split than these cells: train it again with "
                "notebook 03."
            )
        shared = both.loc[both["split"] == "test", "image_id"]
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


def vote(cell_run: Run) -> pd.DataFrame:
    """Let the cells of each image vote: an image's probabilities are the mean of its cells'."""
    columns = [f"p_{name}" for name in cell_run.config.class_names]
    of_image = cell_run.predictions.groupby(["image_id", "class", "split"], sort=False)
    return of_image[columns].mean().reset_index()


def _of_test(run: Run) -> pd.DataFrame:
    return run.predictions.query("split == 'test'")
