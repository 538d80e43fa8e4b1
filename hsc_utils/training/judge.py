"""What predictions are worth: their scores by subset, and the temperature that calibrates them."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from hsc_utils import manifest, metrics


def score_predictions(predictions: pd.DataFrame, class_names: Sequence[str]) -> dict:
    """Score every subset, the judged one with 95 % intervals over images: see `Run.scores`."""
    scores, judged_on = {}, _judged_on(predictions)
    for subset in manifest.SUBSETS:
        chosen = predictions[predictions["split"] == subset]
        if chosen.empty:
            continue
        arguments = (chosen["class"], metrics.probability_matrix(chosen, class_names), class_names)
        scores[subset] = metrics.score(*arguments)
        if subset == judged_on:
            known = (chosen["image_id"], chosen.get("group"))
            scores[subset]["intervals"] = metrics.intervals(*arguments, *known)
            scores[subset]["caution"] = metrics.caution(chosen["class"], *known)
            scores[subset]["ece_if_calibrated"] = metrics.calibrated_ece(arguments[1])
    return scores


def calibrate(predictions: pd.DataFrame, class_names: Sequence[str]) -> dict:
    """Fit a temperature on the validation subset, and look what it does on the one judged.

    Parameters
    ----------
    predictions : DataFrame
        `Run.predictions`.
    class_names : sequence of str
        In the order of the logits.

    Returns
    -------
    dict
        ``temperature`` (see `metrics.fit_temperature`; 1 where too little speaks for another, and
        ``reason`` then says what), and what it was fitted on: ``subset``, ``samples``, ``images``,
        ``mistakes`` (wrong predictions, in samples), ``at_limit`` (of `metrics.TEMPERATURES`),
        ``log_loss_before`` and ``log_loss_after``. Of the subset ``judged_on``: expected
        calibration errors ``ece_before`` and ``ece_after``, ``ece_if_calibrated`` (the range that
        calibrated probabilities would show after) and the log losses ``judged_log_loss_before``
        and ``judged_log_loss_after``.
    """
    fitted = predictions[predictions["split"] == "validation"]
    truth, raw = _arrays(fitted, class_names)
    reason = metrics.why_uncalibrated(fitted["class"], fitted["image_id"])
    temperature = 1.0 if reason else metrics.fit_temperature(truth, raw, fitted["image_id"])
    low, high = metrics.TEMPERATURES
    judged_on = _judged_on(predictions)
    judged = predictions[predictions["split"] == judged_on]
    true, before = _arrays(judged, class_names)
    after = metrics.tempered(before, temperature)
    return {
        "temperature": temperature,
        "reason": reason,
        "subset": "validation",
        "samples": len(fitted),
        "images": fitted["image_id"].nunique(),
        "mistakes": int((raw.argmax(1) != truth).sum()),
        "at_limit": not 1.01 * low < temperature < 0.99 * high,
        "log_loss_before": metrics.log_loss(truth, metrics.tempered(raw, 1)),
        "log_loss_after": metrics.log_loss(truth, metrics.tempered(raw, temperature)),
        "judged_on": judged_on,
        "ece_before": metrics.score(true, before, class_names)["ece"],
        "ece_after": metrics.score(true, after, class_names)["ece"],
        "ece_if_calibrated": metrics.calibrated_ece(after),
        "judged_log_loss_before": metrics.log_loss(true, metrics.tempered(before, 1)),
        "judged_log_loss_after": metrics.log_loss(true, after),
    }


def _judged_on(predictions: pd.DataFrame) -> str:
    return "test" if (predictions["split"] == "test").any() else "validation"


def _arrays(predictions: pd.DataFrame, class_names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the index of each true class (N,), and the probabilities (N, K)."""
    truth = pd.Index(class_names).get_indexer(predictions["class"])
    return truth, metrics.probability_matrix(predictions, class_names)
