"""Scores of predictions, and how far they can be trusted.

Cells of one image are not independent, nor are images of one day. So intervals leave out one
image, or one group of images, at a time (the jackknife), and look how the score moves. Every
score is computed from sums over images and a weight for each image, never cell by cell.
"""

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
import scipy

MIN_IMAGES = 5  # of a class: with fewer, no interval and no verdict
ROUGH_IMAGES = 20  # of a class: with fewer, intervals are called rough
MIN_GROUPS = 6  # with fewer, nothing is said about other days or mice
TEMPERATURES = (0.05, 20)  # what is searched
TEMPERATURE_PRIOR = 2  # images that speak for a temperature of 1


def balanced_accuracy(y_true: Sequence, y_pred: Sequence) -> float:
    """Return the paper's balanced accuracy.

    For each class the mean of sensitivity and specificity one-vs-rest, then the mean over
    classes: 0.5 for guessing, and larger than scikit-learn's ``balanced_accuracy_score``.

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
        One probability per class, rows summing to 1; the prediction is the largest, the
        first of equals.
    class_names : sequence of str
        The K classes, in the order of the columns.

    Returns
    -------
    dict
        Fractions in [0, 1]: ``balanced_accuracy`` (the paper's), ``balanced_accuracy_sklearn``
        (mean sensitivity), ``accuracy``, ``auroc`` (one-vs-rest, macro), ``f1`` (macro),
        ``brier`` (Brier 1950, halved: 0 perfect, 1 surely wrong) and ``ece`` (expected
        calibration error, `ECE_BINS` equal bins of confidence);
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
    groups: Sequence | None = None,
    *,
    coverage: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """Return intervals of the scores from leaving out one image, or one group, at a time.

    On the logit scale, with t quantiles (see `jackknife`); where groups are known, the wider of
    the intervals over images and over groups. ``benchmarks/coverage.py`` measures what they cover.

    Parameters
    ----------
    y_true, probabilities, class_names
        As in `score`.
    images : sequence (N,)
        The image each sample comes from; at image level every sample its own.
    groups : sequence of str (N,), optional
        The day, mouse or other group of each sample.
    coverage : float
        In (0, 1).

    Returns
    -------
    dict
        ``(low, high)`` for each of `SCORES`; NaN where no interval can be given: a class with
        fewer than `MIN_IMAGES` images, or a score of exactly 0 or 1.
    """
    scored = scores_without_each(y_true, probabilities, class_names, images, groups)
    return {
        key: widest_interval([each[key] for each in scored], coverage, logit=True) for key in SCORES
    }


def scores_without_each(
    y_true: Sequence,
    probabilities: np.ndarray,
    class_names: Sequence[str],
    images: Sequence,
    groups: Sequence | None = None,
) -> list[dict[str, np.ndarray]]:
    """Score all samples, and then without each image in turn; and so with groups, where they count.

    Arguments are as in `intervals`. Two models' arrays (1 + U,) on the same samples may be
    subtracted, and `widest_interval` of the differences judges the two as a pair; the list is
    empty where nothing may be left out (see `sampling_units`).
    """
    truth, probabilities = _checked(y_true, probabilities, class_names)
    codes, units = sampling_units(truth, images, groups)
    sums = sums_by_image(truth, probabilities, codes)
    return [weighted_scores(leave_one_out(unit), sums)[0] for unit in units]


def sampling_units(
    truth: Sequence, images: Sequence, groups: Sequence | None = None
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Say what may be left out of a set of samples to learn how far its scores can be trusted.

    Returned are the number of each sample's image (N,), and units: for each of the G images its
    own number (G,), and where groups count, its group's (G,); none where a class has fewer than
    `MIN_IMAGES` images. Groups count if none is empty, there are at least `MIN_GROUPS`, and every
    class has several.
    """
    table = pd.DataFrame({"image": np.asarray(images), "class": np.asarray(truth)})
    codes, names = pd.factorize(table["image"])
    table["group"] = "" if groups is None else np.asarray(groups).astype(str)
    table = table.assign(image=codes).drop_duplicates("image").sort_values("image")
    if table["class"].value_counts().min() < MIN_IMAGES:
        return codes, []
    units = [np.arange(len(names))]
    groups_of_class = table.groupby("class")["group"].nunique()
    if counted_groups(table["group"]) >= MIN_GROUPS and groups_of_class.min() > 1:
        units.append(pd.factorize(table["group"])[0])
    return codes, units


def counted_groups(groups: Sequence[str]) -> int:
    """Count the groups; none where any sample has none."""
    names = set(groups)
    return 0 if "" in names else len(names)


def leave_one_out(units: np.ndarray) -> np.ndarray:
    """Return weights of images: all of them, then without each unit, float (1 + U, images)."""
    without = units != np.arange(units.max() + 1)[:, None]
    return np.vstack([np.ones(len(units)), without])


def jackknife(values: np.ndarray) -> tuple[float, float]:
    """Return variance and degrees of freedom of a statistic from its leave-one-out values.

    The delete-one jackknife (Tukey 1958). The degrees of freedom are those of its own estimate
    of the variance (Satterthwaite 1946, from the fourth moment of the deviations): few where a
    few units carry all the errors, as near a perfect score, and at most U - 1 for U values.
    """
    count = len(values)
    if count < 2 or not np.isfinite(values).all():
        return np.nan, np.nan
    squares = (values - values.mean()) ** 2
    if squares.sum() <= 1e-24:
        return 0.0, count - 1.0
    kurtosis = count * (squares**2).sum() / squares.sum() ** 2
    freedom = 2 * count / (kurtosis - 1) if kurtosis > 1 else np.inf
    return (count - 1) / count * squares.sum(), float(np.clip(freedom, 1.5, count - 1))


def half_width(parts: Sequence[tuple[float, float]], coverage: float) -> float:
    """Return the t half-width for a sum of variances, each with its degrees of freedom."""
    variance, freedom = summed(parts)
    return float(scipy.stats.t.ppf((1 + coverage) / 2, freedom) * np.sqrt(variance))


def summed(parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Add variances, each with its degrees of freedom, by Satterthwaite (1946)."""
    variances, freedoms = np.array(parts).T
    total = variances.sum()
    if not total > 0:
        return float(total), float(freedoms.min())
    return float(total), float(total**2 / (variances**2 / freedoms).sum())


def widest_interval(
    scored: Sequence[np.ndarray], coverage: float, *, logit: bool = False
) -> tuple[float, float]:
    """Return the widest jackknife interval of a score that lies in [0, 1] if `logit`.

    For each kind of unit, `scored` holds the score on `leave_one_out` (1 + U,); NaN without any.
    """
    if not scored or np.isnan(scored[0][0]):
        return np.nan, np.nan
    width = max(half_width([jackknife(values[1:])], coverage) for values in scored)
    if width == 0:  # no unit moves the score, which says nothing about others
        return np.nan, np.nan
    estimate = float(scored[0][0])
    return logit_interval(estimate, width) if logit else (estimate - width, estimate + width)


def logit_interval(estimate: float, width: float) -> tuple[float, float]:
    """Lay an interval about a score in [0, 1] so that it stays within; NaN at 0 and 1.

    `width` is half an interval on the plain scale; the delta method brings it to the logit scale.
    Logits of the leave-one-out values themselves would not do: near a perfect score some of these
    are 1, and one such value would make the interval all of [0, 1].
    """
    if not 0 < estimate < 1:
        return np.nan, np.nan
    reach = width / (estimate * (1 - estimate))
    middle = scipy.special.logit(estimate)
    return float(scipy.special.expit(middle - reach)), float(scipy.special.expit(middle + reach))


def caution(truth: Sequence, images: Sequence, groups: Sequence | None = None) -> str:
    """Say for whom intervals over these samples speak, and how far; arguments as `intervals`'s."""
    table = pd.DataFrame({"class": np.asarray(truth), "image": np.asarray(images)})
    counts = table.drop_duplicates("image")["class"].value_counts()
    least, name = counts.min(), counts.idxmin()
    if least < MIN_IMAGES:
        return (
            f"{name} has {least} independent image(s): too few for an interval or a verdict, which "
            f"need {MIN_IMAGES} of each class, and {ROUGH_IMAGES} to be good."
        )
    text = ""
    if least < ROUGH_IMAGES:
        text = f"Intervals are rough: {name} has {least} images, {ROUGH_IMAGES} are wanted. "
    if len(sampling_units(truth, images, groups)[1]) > 1:
        return f"{text}They speak of other images and other days (or groups) like these."
    if days := counted_groups([] if groups is None else np.asarray(groups).astype(str)):
        return (
            f"{text}There are {days} days (or groups), or one alone of a class, too few to speak "
            "of others: this holds for these days only."
        )
    return f"{text}Days or mice are not known: this holds for images like these only."


def reliability(
    y_true: Sequence, probabilities: np.ndarray, class_names: Sequence[str]
) -> pd.DataFrame:
    """Tabulate ``confidence``, ``accuracy`` (means in [0, 1]) and ``samples`` of each bin of it."""
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


def calibrated_ece(
    probabilities: np.ndarray, *, coverage: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Return the range of the calibration error that a calibrated model would show here.

    Binned errors are biased upwards, so labels are drawn from the model's own probabilities (N, K).
    """
    confidence = np.asarray(probabilities, float).max(1)
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    expected = np.bincount(bins, confidence, ECE_BINS)
    rng = np.random.default_rng(seed)
    errors = []
    for _ in range(draws):
        hits = rng.random(len(bins)) < confidence
        errors.append(np.abs(expected - np.bincount(bins, hits, ECE_BINS)).sum() / len(bins))
    low, high = np.quantile(errors, [(1 - coverage) / 2, (1 + coverage) / 2])
    return float(low), float(high)


def fit_temperature(
    truth: Sequence[int], probabilities: np.ndarray, images: Sequence | None = None
) -> float:
    """Find the temperature that makes probabilities honest, from samples not learnt from.

    Guo et al. 2017 (arXiv 1706.04599): the T of least log loss of ``softmax(log p / T)``; above 1
    for a model that is too sure of itself. Where every sample is right, that T would be 0, however
    few they are. So sharpness 1 / T is held near 1 by a Gamma prior whose mode is 1 and which
    weighs about as much as `TEMPERATURE_PRIOR` images; cells of one image are right or wrong
    together, so the loss weighs as much as there are images. The sum is convex in 1 / T, and never
    above what it is at T = 1.

    Parameters
    ----------
    truth : sequence of int (N,)
        Index of each sample's class.
    probabilities : float (N, K)
        As in `score`.
    images : sequence (N,), optional
        The image each sample comes from; by default every sample its own.

    Returns
    -------
    float
        Within `TEMPERATURES`.
    """
    names = [str(index) for index in range(np.shape(probabilities)[-1])]
    truth, probabilities = _checked(truth, probabilities, names)
    count = len(truth) if images is None else len(set(images))

    def cost(log_temperature: float) -> float:
        sharpness = np.exp(-log_temperature)
        loss = log_loss(truth, tempered(probabilities, np.exp(log_temperature)))
        return count * loss + TEMPERATURE_PRIOR * (sharpness - 1 - np.log(sharpness))

    found = scipy.optimize.minimize_scalar(cost, bounds=np.log(TEMPERATURES), method="bounded")
    return float(np.exp(found.x)) if cost(found.x) < cost(0) else 1.0


def tempered(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Return ``softmax(log p / temperature)``, float64 (N, K): classes keep their order."""
    if not temperature > 0:
        raise ValueError(f"temperature: {temperature} is not above 0.")
    # a probability of 0 is one too small for float32 to hold
    known = np.maximum(np.asarray(probabilities, float), np.finfo(np.float32).smallest_subnormal)
    return scipy.special.softmax(np.log(known) / temperature, axis=1)


def log_loss(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Average -log p of the true class (index, N) in nats; `probabilities` (N, K) are above 0."""
    return float(-np.log(probabilities[np.arange(len(truth)), truth]).mean())


def why_uncalibrated(classes: Sequence, images: Sequence) -> str:
    """Say why validation samples do not tell a temperature; nothing where they do."""
    count = len(set(images))
    if count < ROUGH_IMAGES:
        return f"{count} validation images are too few: {ROUGH_IMAGES} are wanted"
    return "all validation images are of one class" if len(set(classes)) < 2 else ""


def votes(predictions: pd.DataFrame, class_names: Sequence[str]) -> pd.DataFrame:
    """Let the samples of each image vote: its probabilities become the mean of theirs.

    Returned are ``image_id``, ``class``, ``split``, ``group`` and ``p_…``, one row per image of
    predictions as `Run.predictions` holds them.
    """
    of_image = predictions.groupby(["image_id", "class", "split", "group"], sort=False)
    return of_image[[f"p_{name}" for name in class_names]].mean().reset_index()


def with_interval(value: float, low: float, high: float, form: str = ".3f") -> str:
    """Write a number with its interval, if it has one."""
    interval = "no interval" if np.isnan([low, high]).any() else f"{low:{form}} to {high:{form}}"
    return f"{value:{form}} ({interval})"


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
SCORES = ("balanced_accuracy", "balanced_accuracy_sklearn", "accuracy", "auroc", "f1", "brier")


def sums_by_image(
    truth: np.ndarray, probabilities: np.ndarray, images: np.ndarray
) -> dict[str, np.ndarray]:
    """Sum over each image (G of them) what every score is made of."""
    classes = range(probabilities.shape[1])
    distances = ((probabilities - np.eye(len(classes))[truth]) ** 2).sum(1) / 2
    return {
        "confusion": confusion_sums(truth, probabilities.argmax(1), images, len(classes)),
        "calibration": calibration_sums(truth, probabilities, images),
        "brier": np.bincount(images, distances),
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
    """Count concordant pairs by image of positive and negative, ties half (Mann, Whitney 1947)."""
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
    """Score weightings (B, G) of the images: `SCORES` and ``ece`` (B,); some by class (B, K)."""
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
    samples = calibration[..., 2].sum(1)
    overall["ece"], overall["brier"] = gaps / samples, weights @ sums["brier"] / samples
    return {key: overall[key] for key in (*SCORES, "ece")}, by_class


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


def means_by_class(
    table: pd.DataFrame, columns: Sequence[str], *, coverage: float = 0.95
) -> pd.DataFrame:
    """Average columns by class, with jackknife intervals over whole images, and groups if known.

    Parameters
    ----------
    table : DataFrame
        One row per cell or image, with ``class``, ``image_id`` and perhaps ``group``; NaN are left
        out.
    columns : sequence of str
        What to average.
    coverage : float
        Of the intervals, in (0, 1).

    Returns
    -------
    DataFrame
        ``class`` (``all classes`` for all together), ``number`` (the column), ``mean``,
        ``low``, ``high`` (NaN below `MIN_IMAGES` images), ``samples`` and ``images`` that entered.
    """
    rows = []
    parts = [("all classes", table), *table.groupby("class", sort=False)]
    for (name, part), column in itertools.product(parts, columns):
        known = part[part[column].notna()]
        sums = known.groupby("image_id")[column].sum().to_numpy(float)
        counts = known.groupby("image_id")[column].count().to_numpy(float)
        low = high = np.nan
        if len(sums) >= MIN_IMAGES:
            units = [np.arange(len(sums))]
            groups = known.groupby("image_id")["group"].first() if "group" in known else []
            if counted_groups(groups) >= MIN_GROUPS:
                units.append(pd.factorize(groups)[0])
            weights = map(leave_one_out, units)
            low, high = widest_interval([(w @ sums) / (w @ counts) for w in weights], coverage)
        mean = sums.sum() / counts.sum() if len(sums) else np.nan
        rows.append((name, column, mean, low, high, int(counts.sum()), len(sums)))
    names = ["class", "number", "mean", "low", "high", "samples", "images"]
    return pd.DataFrame(rows, columns=names)
