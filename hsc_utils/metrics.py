"""Scores of predictions, and their intervals by resampling images.

Cells of one image are not independent, so intervals resample whole images. A resample is a
weight for each image, and every score is computed from sums over images, never cell by cell:
thousands of resamples take seconds.
"""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

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
    drawn = [weighted_scores(w, sums)[0] for w in resampled_images(len(names), resamples, rng)]
    return {key: interval(np.concatenate([d[key] for d in drawn]), level) for key in SCORES}


def resampled_images(images: int, resamples: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Draw images with replacement: yield weights (B, images) of a few resamples at a time."""
    for start in range(0, resamples, _CHUNK):
        count = min(_CHUNK, resamples - start)
        yield rng.multinomial(images, np.full(images, 1 / images), size=count)


def interval(values: np.ndarray, level: float) -> tuple[float, float]:
    """Return the percentile interval of resampled values, NaN left out; NaN where none is left."""
    values = values[~np.isnan(values)]
    if not len(values):
        return np.nan, np.nan
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


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


ECE_BINS = 15
SCORES = ("balanced_accuracy", "balanced_accuracy_sklearn", "accuracy", "auroc", "f1", "ece")


def sums_by_image(
    truth: np.ndarray, probabilities: np.ndarray, images: np.ndarray
) -> dict[str, np.ndarray]:
    """Sum over each image (G of them) what every score is made of."""
    classes = range(probabilities.shape[1])
    return {
        "confusion": confusion_sums(truth, probabilities.argmax(1), images, len(classes)),
        "calibration": calibration_sums(truth, probabilities, images),
        "pairs": np.stack([_pairs(truth == k, probabilities[:, k], images) for k in classes]),
    }


def confusion_sums(
    truth: np.ndarray, predicted: np.ndarray, images: np.ndarray, classes: int
) -> np.ndarray:
    """Count predictions by image, true class and predicted class: float (G, K, K)."""
    counts = np.zeros((images.max() + 1, classes, classes))
    np.add.at(counts, (images, truth, predicted), 1)
    return counts


def calibration_sums(
    truth: np.ndarray, probabilities: np.ndarray, images: np.ndarray
) -> np.ndarray:
    """Sum confidence, hits and samples by image and bin of confidence: float (G, bins, 3)."""
    confidence = probabilities.max(1)
    hits = probabilities.argmax(1) == truth
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    sums = np.zeros((images.max() + 1, ECE_BINS, 3))
    np.add.at(sums, (images, bins), np.stack([confidence, hits, np.ones(len(hits))], axis=1))
    return sums


def _pairs(positive: np.ndarray, scores: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Count concordant pairs by image of the positive and of the negative: float (G, G).

    A tie counts one half, so that the area under the ROC curve is this sum over the number
    of pairs (Mann and Whitney 1947), whatever the weights of the images.
    """
    count = images.max() + 1
    pairs = np.zeros((count, count))
    of_positive = images[positive]
    for image in np.unique(images[~positive]):
        negatives = np.sort(scores[~positive & (images == image)])
        below = np.searchsorted(negatives, scores[positive], side="left")
        not_above = np.searchsorted(negatives, scores[positive], side="right")
        pairs[:, image] = np.bincount(of_positive, (below + not_above) / 2, minlength=count)
    return pairs


def weighted_scores(
    weights: np.ndarray, sums: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Score B resamples at once from sums by image.

    Parameters
    ----------
    weights : (B, G)
        How often each image is in each resample.
    sums : dict
        From `sums_by_image`.

    Returns
    -------
    overall : dict of float (B,)
        `SCORES`.
    by_class : dict of float (B, K)
        Sensitivity, specificity, F1 and AUROC.
    """
    confusion = np.tensordot(weights, sums["confusion"], axes=1)
    overall = scores_of_confusion(confusion)
    positives = confusion.sum(2)
    negatives = positives.sum(1, keepdims=True) - positives
    weights = weights.astype(float)
    concordant = np.stack([((weights @ p) * weights).sum(1) for p in sums["pairs"]], axis=1)
    by_class = {key: overall.pop(key) for key in ("sensitivity", "specificity", "f1_by_class")}
    by_class["f1"] = by_class.pop("f1_by_class")
    by_class["auroc"] = _ratio(concordant, positives * negatives)
    overall["auroc"] = _mean(by_class["auroc"], axis=1)
    calibration = np.tensordot(weights, sums["calibration"], axes=1)
    gaps = np.abs(calibration[..., 0] - calibration[..., 1]).sum(1)
    overall["ece"] = gaps / calibration[..., 2].sum(1)
    return {key: overall[key] for key in SCORES}, by_class


def scores_of_confusion(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Compute what follows from confusion matrices (B, K, K), classes without truth left out."""
    hits = np.einsum("bkk->bk", confusion)
    positives = confusion.sum(2)
    predicted = confusion.sum(1)
    total = positives.sum(1, keepdims=True)
    sensitivity = _ratio(hits, positives)
    specificity = _ratio(total - positives - predicted + hits, total - positives)
    specificity = np.where(positives > 0, specificity, np.nan)
    f1 = np.where(positives > 0, _ratio(2 * hits, positives + predicted), np.nan)
    return {
        "balanced_accuracy": _mean((sensitivity + specificity) / 2, axis=1),
        "balanced_accuracy_sklearn": _mean(sensitivity, axis=1),
        "accuracy": _ratio(hits.sum(1), total[:, 0]),
        "f1": _mean(f1, axis=1),
        "sensitivity": sensitivity,
        "specificity": specificity,
        "f1_by_class": f1,
    }


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divide, giving NaN where there is nothing to divide by."""
    return np.divide(
        numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator > 0
    )


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Average without NaN, giving NaN where nothing else is left."""
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0).sum(axis), defined.sum(axis))


def bootstrap_means(
    table: pd.DataFrame,
    columns: Sequence[str],
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Average columns by class, with percentile intervals from resampling whole images.

    Parameters
    ----------
    table : DataFrame
        One row a cell or image, with ``class`` and ``image_id``; NaN are left out.
    columns : sequence of str
        What to average.
    resamples, level, seed : int, float, int
        Number of resamples, coverage of the intervals, seed.

    Returns
    -------
    DataFrame
        ``class`` (``all`` for every class together), ``number`` (the column), ``mean``,
        ``low``, ``high`` (NaN from one image), ``samples`` and ``images`` that entered.
    """
    rng = np.random.default_rng(seed)
    rows = []
    parts = [("all", table), *table.groupby("class", sort=False)]
    for (name, part), column in itertools.product(parts, columns):
        by_image = part.groupby("image_id")[column].agg(["sum", "count"]).query("count > 0")
        sums, counts = by_image["sum"].to_numpy(float), by_image["count"].to_numpy(float)
        images = len(by_image)
        if not images:
            rows.append((name, column, np.nan, np.nan, np.nan, 0, 0))
            continue
        drawn = resampled_images(images, resamples, rng)
        values = np.concatenate([(w @ sums) / (w @ counts) for w in drawn])
        # a single image says nothing about other images
        low, high = interval(values, level) if images > 1 else (np.nan, np.nan)
        mean = sums.sum() / counts.sum()
        rows.append((name, column, mean, low, high, int(counts.sum()), images))
    names = ["class", "number", "mean", "low", "high", "samples", "images"]
    return pd.DataFrame(rows, columns=names)
