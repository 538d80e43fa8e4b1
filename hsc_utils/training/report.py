"""What a notebook says of a finished run: tables and sentences made from its stored files."""

import numpy as np
import pandas as pd
from sklearn import metrics as sklearn_metrics

from hsc_utils import metrics, paper
from hsc_utils.study import Run
from hsc_utils.training.judge import score_predictions

_SCORE_NAMES = {
    "balanced_accuracy": "balanced accuracy (the paper's)",
    "balanced_accuracy_sklearn": "balanced accuracy (scikit-learn's)",
    "auroc": "AUROC (mean of one-vs-rest)",
    "accuracy": "accuracy",
    "f1": "F1 (mean over classes)",
    "brier": "Brier score (0 best)",
}

_COMPARED = ("balanced_accuracy", "auroc")


def score_table(run: Run) -> pd.DataFrame:
    """Set a run's scores beside their intervals, and below them what the paper reports.

    They are those of the test subset, or of validation where there is none (`Run.judged_on`).

    Returns
    -------
    DataFrame
        One row per score: ``value``, ``95 % interval`` (in words), and where the run was
        cross-validated, ``cross-validated`` (of all samples, with the interval). The scores that
        the paper gives of such a model, on its own data, are rows of their own.
    """
    scores = run.scores[run.judged_on]
    rows = {
        name: {"value": _number(scores[key]), "95 % interval": _range(scores["intervals"][key])}
        for key, name in _SCORE_NAMES.items()
    }
    error, calibration = "expected calibration error", run.calibration
    tempered = f"{error}, with temperature {calibration['temperature']:.2f}"
    for name, ece, expected in (
        (error, scores["ece"], scores["ece_if_calibrated"]),
        (tempered, calibration["ece_after"], calibration["ece_if_calibrated"]),
    ):
        expected = "{:.3f} to {:.3f} if calibrated".format(*expected)
        rows[name] = {"value": _number(ece), "95 % interval": expected}
    if pooled := _cross_validated(run):
        for key, name in _SCORE_NAMES.items():
            found = f"{_number(pooled[key])} ({_range(pooled['intervals'][key])})"
            rows[name]["cross-validated"] = found
        rows[error]["cross-validated"] = _number(pooled["ece"])
        rows[tempered]["cross-validated"] = "not fitted"
    reported, model = paper.scores(), (run.config.level, run.config.architecture)
    known = reported.loc[model] if model in reported.index else {}
    for key, name in _SCORE_NAMES.items():
        if key in known:
            told = {"value": f"{known[key]:.3f}", "95 % interval": "not given"}
            rows[f"the paper's {name}, on its own data"] = told
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(f"{run.judged_on} score")


def _cross_validated(run: Run) -> dict:
    """Score the pooled predictions of the folds as a test subset; empty where there are none."""
    pooled = run.folds
    return {} if pooled is None else score_predictions(pooled, run.config.class_names)["test"]


def _number(value: float) -> str:
    return "not defined" if np.isnan(value) else f"{value:.3f}"


def _range(interval: tuple[float, float]) -> str:
    return "none" if np.isnan(interval).any() else "{:.3f} to {:.3f}".format(*interval)


def scores_note(run: Run, note: str) -> str:
    """Add to a figure's note whose scores it shows, where they are not the test subset's."""
    if run.judged_on == "test":
        return note
    return " · ".join(filter(None, [note, "Validation subset: there is no test subset"]))


def sentences(run: Run) -> list[str]:
    """Say in plain words what the scores of a finished run mean, and how far to trust them."""
    subset, class_names = run.judged_on, run.config.class_names
    scores = run.scores[subset]
    confusion = np.array(scores["confusion"])
    low, high = scores["intervals"]["auroc"]
    commonest = confusion.sum(1).max() / confusion.sum()
    said = [
        f"Of {scores['samples']} {subset} {run.config.level}s, {scores['accuracy']:.0%} are given "
        f"their class (always naming the commonest would reach {commonest:.0%})."
    ]
    if subset == "validation":
        said.insert(0, "There is no test subset, and the kept epoch flatters these scores.")
    if np.isnan(scores["auroc"]):
        said.append("They are of one class only, so nothing is known of telling classes apart.")
    else:
        said.append(
            f"A sample of a class ranks above one of another class {scores['auroc']:.0%} of the "
            f"time (AUROC {scores['auroc']:.3f}; 95 % interval {_range((low, high))}). "
            f"{scores['caution']}"
        )
    if low <= 0.5:
        said.append("That interval includes guessing: nothing has been shown to be learnt.")
    wrong = confusion * (1 - np.eye(len(confusion), dtype=int))
    if wrong.any():
        pairs = [
            f"{class_names[true]} taken for {class_names[predicted]} ({wrong.max()} of "
            f"{confusion[true].sum()})"
            for true, predicted in np.argwhere(wrong == wrong.max())
        ]
        many = "mistakes are" if len(pairs) > 1 else "mistake is"
        said.append(f"The commonest {many} {', '.join(pairs)}.")
    if scores["left_out"]:
        absent = ", ".join(scores["left_out"])
        said.append(f"No {subset} sample belongs to {absent}, so no score covers that.")
    said.append(_calibration_sentence(run))
    if pooled := _cross_validated(run):
        said.append(
            f"Cross-validated, that is with each of {pooled['samples']} {run.config.level}s judged "
            f"by a network that saw nothing of its fold, {pooled['accuracy']:.0%} are given their "
            f"class, and AUROC is {_number(pooled['auroc'])}; 95 % interval "
            f"{_range(pooled['intervals']['auroc'])}. {pooled['caution']} {run.folds.attrs['said']}"
        )
    return said


def _calibration_sentence(run: Run) -> str:
    """Say what the temperature is, and how well it is founded."""
    calibration = run.calibration
    if calibration["reason"]:
        return f"Probabilities are not calibrated: {calibration['reason']}."
    text = (
        f"A temperature of {calibration['temperature']:.2f} calibrates the probabilities (above 1 "
        "they were too bold, below 1 too timid)."
    )
    if not calibration["mistakes"]:
        text += " No validation sample is wrong, so it is held near 1: too little is known."
    if calibration["judged_on"] == "validation":
        text += " It was fitted on the very samples that it is judged on, which flatters it."
    return text


def curves(run: Run) -> dict[str, dict]:
    """Trace ROC and precision-recall curves on the subset judged, one-vs-rest.

    Returns
    -------
    dict
        By class that has a true sample: arrays ``fpr``, ``tpr``, ``recall`` and ``precision``,
        and the numbers ``auroc``, ``average_precision`` and ``share`` (of the samples), all in
        [0, 1].
    """
    test, traced = _judged(run), {}
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
    """Tabulate confidence against accuracy on the subset judged, as `metrics.reliability` does.

    Column ``probabilities`` says which: as predicted, or with the run's temperature unless that is
    1; and how large their calibration error is.
    """
    test, calibration = _judged(run), run.calibration
    class_names, temperature = run.config.class_names, calibration["temperature"]
    raw = metrics.probability_matrix(test, class_names)
    curves = {f"as predicted: error {calibration['ece_before']:.3f}": raw}
    if temperature != 1:
        name = f"with temperature {temperature:.2f}: error {calibration['ece_after']:.3f}"
        curves[name] = metrics.tempered(raw, temperature)
    tables = [
        metrics.reliability(test["class"], probabilities, class_names).assign(probabilities=name)
        for name, probabilities in curves.items()
    ]
    return pd.concat(tables, ignore_index=True)


def confident_mistakes(run: Run, count: int) -> pd.DataFrame:
    """List the wrong predictions of highest probability on the subset judged.

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
    test = _judged(run)
    probabilities = metrics.probability_matrix(test, run.config.class_names)
    predicted = np.array(run.config.class_names)[probabilities.argmax(1)]
    test = test.assign(predicted=predicted, confidence=probabilities.max(1))
    wrong = test[test["predicted"] != test["class"]]
    return wrong.sort_values("confidence", ascending=False, kind="stable").head(count)


def levels_side_by_side(cell_run: Run, image_run: Run) -> pd.DataFrame:
    """Score cells voted into images beside an image-level model, on the images both are judged on.

    Parameters
    ----------
    cell_run : Run
        A finished run on cells.
    image_run : Run
        One on images, which need not exist.

    Returns
    -------
    DataFrame
        One row per model with its scores and their intervals, and one for the difference, which
        counts that both saw the same images; one row alone where the image-level run does not
        exist, is damaged, or knows other classes or none of these images.

    Raises
    ------
    ValueError
        If an image is in another subset for one of the two models.
    """
    class_names, subset = cell_run.config.class_names, cell_run.judged_on
    votes = vote(cell_run)
    tables = {"cells, voted into images": votes[votes["split"] == subset]}
    reason = next(iter(image_run.damaged()), "")
    if not image_run.predictions_file.exists():
        reason = "It is not trained yet."
    elif not reason and set(image_run.config.class_names) != set(class_names):
        reason = f"It knows other classes: {', '.join(image_run.config.class_names)}."
    if reason:
        print(f"Without the image-level model {image_run}: {reason}")
    else:
        of_images = image_run.predictions
        both = votes.merge(of_images, on="image_id", suffixes=("", "_image"))
        if (both["split"] != both["split_image"]).any():
            raise ValueError(
                f"{image_run} was trained on another split than these cells: train it again with "
                "notebook 03."
            )
        shared = both.loc[both["split"] == subset, "image_id"]
        if len(shared):
            tables["image-level model"] = of_images
            tables = {name: t[t["image_id"].isin(shared)] for name, t in tables.items()}
    rows, without = {}, []
    for name, table in tables.items():
        table = table.sort_values("image_id")
        truth, units = table["class"], (table["image_id"], table.get("group"))
        arguments = truth, metrics.probability_matrix(table, class_names), class_names
        without.append(metrics.scores_without_each(*arguments, *units))
        scores, intervals = metrics.score(*arguments), metrics.intervals(*arguments, *units)
        rows[name] = {"images": len(table)} | {
            _SCORE_NAMES[key]: f"{_number(scores[key])} ({_range(intervals[key])})"
            for key in _COMPARED
        }
    if len(without) == 2:
        rows["difference"] = {"images": len(table)} | {
            _SCORE_NAMES[key]: _difference([a[key] - b[key] for a, b in zip(*without, strict=True)])
            for key in _COMPARED
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")


def vote_sentences(beside: pd.DataFrame) -> list[str]:
    """Say how well cells do that vote, beside a model of whole images (`levels_side_by_side`)."""
    reached = beside[_SCORE_NAMES["auroc"]]
    said = [f"{name[0].upper()}{name[1:]}: AUROC {value}" for name, value in reached.items()]
    return ["; ".join(said) + "."]


def _difference(gaps: list[np.ndarray]) -> str:
    """Say how two models differ, from the difference without each image (and each group)."""
    low, high = metrics.widest_interval(gaps, 0.95)
    if not gaps:
        return "too few images to say"
    if np.isnan(low):
        return f"{gaps[0][0]:+.3f}: not told apart, since no image alone moves it"
    end = "not told apart" if low <= 0 <= high else "beyond the choice of images"
    return f"{gaps[0][0]:+.3f} ({low:+.3f} to {high:+.3f}): {end}"


def vote(run: Run) -> pd.DataFrame:
    """Let the cells of each image vote: its probabilities become the mean of theirs.

    Predictions of whole images stay what they are. Returned are ``image_id``, ``class``,
    ``split``, ``group`` and ``p_…``, one row per image.
    """
    return metrics.votes(run.predictions, run.config.class_names)


def _judged(run: Run) -> pd.DataFrame:
    return run.predictions.query("split == @run.judged_on")
