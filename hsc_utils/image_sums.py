"""Scores from sums over images.

A resample of images is a weight for each image, and every score is computed from sums over
images, never cell by cell: thousands of resamples take seconds.
"""

import numpy as np

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
