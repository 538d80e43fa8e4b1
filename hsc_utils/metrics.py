"""Scores of predictions, and their intervals by resampling images.

Cells of one image are not independent, so intervals resample whole images, by `image_sums`.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from hsc_utils.image_sums import (
    SCORES,
    calibration_sums,
    confusion_sums,
    scores_of_confusion,
    sums_by_image,
    weighted_scores,
)

# resamples scored at once: bounds the memory of an interval, not its result
_CHUNK = 1000


def balanced_accuracy(y_true: Sequence, y_pred: Sequence) -> float:
    """Return the paper's balanced accuracy.

    For each class the mean of sensitivity and specificity one-vs-rest, then the mean over
    classes (PAPER.md, *Metrics*). It is larger than scikit-learn's
    ``balanced_accuracy_score``, the mean of the sensitivities, for the same predictions.

    Parameters
    ----------
    y_true, y_pred : sequence of str or int (N,)
        True and predicted class of each sample. Classes without a true sample are left out.

    Returns
    -------
    float
        In [0, 1]; NaN where fewer than two classes have a true sample.
    """
    if len(y_true) != len(y_pred):
        raise ValueError(f"y_true has {len(y_true)} samples and y_pred {len(y_pred)}.")
    names, codes = np.unique([*y_true, *y_pred], return_inverse=True)
    truth, predicted = np.split(codes, 2)
    confusion = confusion_sums(truth, predicted, np.zeros(len(truth), int), len(names))
    return float(scores_of_confusion(confusion)["balanced_accuracy"][0])


def score(y_true: Sequence, probabilities: np.ndarray, class_names: Sequence[str]) -> dict:
    """Score probabilities against the truth.

    Parameters
    ----------
    y_true : sequence of str or int (N,)
        True class of each sample, as a name or as an index into `class_names`.
    probabilities : float (N, K)
        One probability a class, rows summing to 1; the prediction is the largest, the
        first of equals.
    class_names : sequence of str
        The K classes, in the order of the columns.

    Returns
    -------
    dict
        Fractions in [0, 1]: ``balanced_accuracy`` (the paper's), ``balanced_accuracy_sklearn``
        (mean sensitivity), ``accuracy``, ``auroc`` (one-vs-rest, macro), ``f1`` (macro) and
        ``ece`` (expected calibration error, `image_sums.ECE_BINS` equal bins of confidence);
        ``per_class`` with ``samples``, ``sensitivity``, ``specificity``, ``f1`` and ``auroc``
        by class; ``confusion`` (K lists of K counts, rows the truth); ``samples``; and
        ``left_out``, the classes without a true sample, which no mean includes. A score
        that is not defined is NaN.

    Raises
    ------
    ValueError
        If shapes disagree, a label is unknown or a probability is not one.
    """
    truth, probabilities = _checked(y_true, probabilities, class_names)
    sums = sums_by_image(truth, probabilities, np.zeros(len(truth), int))
    overall, by_class = weighted_scores(np.ones((1, 1)), sums)
    samples = np.bincount(truth, minlength=len(class_names))
    return {
        "samples": len(truth),
        **{key: float(values[0]) for key, values in overall.items()},
        "per_class": {
            name: {"samples": int(samples[index])}
            | {key: float(values[0, index]) for key, values in by_class.items()}
            for index, name in enumerate(class_names)
        },
        "confusion": sums["confusion"].sum(axis=0).astype(int).tolist(),
        "left_out": [name for name, count in zip(class_names, samples, strict=True) if not count],
    }


def intervals(
    y_true: Sequence,
    probabilities: np.ndarray,
    class_names: Sequence[str],
    images: Sequence,
    *,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Bootstrap percentile intervals of the scores, resampling images with replacement.

    Parameters
    ----------
    y_true, probabilities, class_names
        As in `score`.
    images : sequence (N,)
        The image each sample comes from; at image level every sample its own.
    resamples : int
        Number of resamples.
    level : float
        Coverage of the intervals, in (0, 1).
    seed : int
        Seed of the resampling.

    Returns
    -------
    dict
        ``(low, high)`` for each of `SCORES`, NaN where a score is never defined. A resample
        in which a class does not occur leaves that class out of its means, as `score` does.
    """
    truth, probabilities = _checked(y_true, probabilities, class_names)
    codes, names = pd.factorize(np.asarray(images))
    if len(codes) != len(truth):
        raise ValueError(f"images: {len(codes)} entries for {len(truth)} samples.")
    sums = sums_by_image(truth, probabilities, codes)
    rng = np.random.default_rng(seed)
    drawn = []
    for start in range(0, resamples, _CHUNK):
        count = min(_CHUNK, resamples - start)
        weights = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=count)
        drawn.append(weighted_scores(weights, sums)[0])
    tails = [(1 - level) / 2, (1 + level) / 2]
    result = {}
    for key in SCORES:
        values = np.concatenate([scores[key] for scores in drawn])
        values = values[~np.isnan(values)]
        low, high = np.quantile(values, tails) if len(values) else (np.nan, np.nan)
        result[key] = (float(low), float(high))
    return result


def reliability(
    y_true: Sequence, probabilities: np.ndarray, class_names: Sequence[str]
) -> pd.DataFrame:
    """Tabulate confidence against accuracy, by the bins of the expected calibration error.

    Returns
    -------
    DataFrame
        One row a bin that holds samples: ``confidence`` and ``accuracy`` (means in [0, 1])
        and ``samples``.
    """
    truth, probabilities = _checked(y_true, probabilities, class_names)
    sums = calibration_sums(truth, probabilities, np.zeros(len(truth), int))[0]
    sums = sums[sums[:, 2] > 0]
    return pd.DataFrame(
        {
            "confidence": sums[:, 0] / sums[:, 2],
            "accuracy": sums[:, 1] / sums[:, 2],
            "samples": sums[:, 2].astype(int),
        }
    )


def probability_matrix(predictions: pd.DataFrame, class_names: Sequence[str]) -> np.ndarray:
    """Return the probabilities of a table of predictions, float (N, K), in the order of classes."""
    return predictions[[f"p_{name}" for name in class_names]].to_numpy(float)


def _checked(
    y_true: Sequence, probabilities: np.ndarray, class_names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the truth as indices into the classes, and the probabilities as float64."""
    truth = np.asarray(y_true)
    probabilities = np.asarray(probabilities, float)
    if probabilities.shape != (len(truth), len(class_names)):
        raise ValueError(
            f"probabilities: shape {probabilities.shape}, expected ({len(truth)} samples, "
            f"{len(class_names)} classes)."
        )
    if len(truth) == 0:
        raise ValueError("There are no samples to score.")
    if not (probabilities >= 0).all() or not np.allclose(probabilities.sum(1), 1, atol=1e-3):
        raise ValueError("probabilities: every row must hold values in [0, 1] that sum to 1.")
    if not np.issubdtype(truth.dtype, np.integer):
        truth = pd.Index(class_names).get_indexer(truth)
    if truth.min() < 0 or truth.max() >= len(class_names):
        raise ValueError(f"y_true: a label is not one of the classes {', '.join(class_names)}.")
    return truth, probabilities
