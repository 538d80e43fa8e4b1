"""How well detected cells agree with true centres, or two detections with each other."""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment
from scipy.spatial import distance


def match_detections(
    found: ArrayLike,
    truth: ArrayLike,
    max_distance: float,
    *,
    max_sigma_difference: float = math.inf,
) -> dict[str, float]:
    """Pair detections with true centres one to one, and score them.

    As many pairs as possible are made within the distance, and of all such pairings
    the one with the smallest sum of distances.

    Parameters
    ----------
    found, truth : array_like, shape (N, 2 or more) and (M, 2 or more)
        y and x of each in px, and sigma if its difference is limited.
    max_distance : float
        Largest distance of a pair in px, such as the radius of the smallest cell.
    max_sigma_difference : float, optional
        Largest difference of a pair's sigmas in px; any by default.

    Returns
    -------
    dict
        ``precision``, ``recall``, ``f1`` in [0, 1] (NaN where there is nothing to divide
        by); ``found``, ``true``, ``matched`` counts; ``error``, the mean distance of a pair
        in px; ``split``, detections left over that lie within the distance of a true
        centre another one was paired with; ``merged``, true centres left over likewise.
    """
    found, truth = (
        np.asarray(points, float) if len(points) else np.empty((0, 3)) for points in (found, truth)
    )
    if not max_distance > 0:
        raise ValueError(f"max_distance must be positive, but is {max_distance}.")
    apart = distance.cdist(found[:, :2], truth[:, :2])
    near = apart <= max_distance
    if max_sigma_difference < math.inf:
        near &= np.abs(found[:, 2, None] - truth[:, 2]) <= max_sigma_difference
    # a pair more always outweighs any saving in distance
    reward = max_distance * (min(apart.shape, default=0) + 1)
    rows, columns = linear_sum_assignment(np.where(near, apart - reward, 0))
    paired = near[rows, columns]
    rows, columns = rows[paired], columns[paired]
    matched = len(rows)
    return {
        "precision": matched / len(found) if len(found) else math.nan,
        "recall": matched / len(truth) if len(truth) else math.nan,
        "f1": 2 * matched / (len(found) + len(truth)) if len(found) + len(truth) else math.nan,
        "found": len(found),
        "true": len(truth),
        "matched": matched,
        "error": float(apart[rows, columns].mean()) if matched else math.nan,
        "split": int(np.delete(near, rows, axis=0).any(axis=1).sum()),
        "merged": int(np.delete(near, columns, axis=1).any(axis=0).sum()),
    }


def agreement(found: ArrayLike, reference: ArrayLike, scale_step: float) -> float:
    """Return the F1 of two detectors of the same blobs: within 2 px and one step of sigma.

    Two empty detections agree: 1.
    """
    if not len(found) and not len(reference):
        return 1.0
    # a hair more, for sigmas that differ by rounding
    return match_detections(found, reference, 2, max_sigma_difference=scale_step + 1e-6)["f1"]
