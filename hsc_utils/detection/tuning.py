"""Try many detection settings on a few images, with the same effort for each method.

With true centres the settings are ranked by F1. Without, by what can be known: whether
neighbouring settings and the other methods find the same cells, and whether many cells
have the smallest or largest size allowed, which says that the range of sizes is wrong.
"""

import itertools
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm.contrib.concurrent import thread_map

from hsc_utils.detection.blobs import DetectionSettings, check_settings, detect_in, searched
from hsc_utils.detection.checks import shown
from hsc_utils.detection.matching import match_detections
from hsc_utils.files import from_root, no_bar, read_rgb

GRID = ("method", "min_sigma", "max_sigma", "threshold")


@dataclass(frozen=True)
class Trials:
    """What every setting of a grid found in every image.

    Attributes
    ----------
    settings : list of DetectionSettings
        The grid.
    found : dict
        By number of the setting and image_id: y, x, sigma of the cells in px.
    table : DataFrame
        One row a setting and image: ``setting``, its values (`GRID`), ``image_id``,
        ``cells``, ``seconds``, ``at_ends`` (share of cells of the smallest or largest size).
    """

    settings: list[DetectionSettings]
    found: dict[tuple[int, str], NDArray[np.float64]]
    table: pd.DataFrame


def make_grid(
    thresholds: Mapping[str, Sequence[float]],
    min_sigmas: Sequence[float],
    max_sigmas: Sequence[float],
    base: DetectionSettings,
) -> list[DetectionSettings]:
    """Combine every size range with every threshold of each method.

    Parameters
    ----------
    thresholds : mapping of str to sequence of float
        Smallest responses tried, by method; equally many for each.
    min_sigmas, max_sigmas : sequence of float
        Sizes tried, px.
    base : DetectionSettings
        Everything else; its method must be among those tried.

    Raises
    ------
    ValueError
        If the methods do not get equally many thresholds, a list is empty or none, or a
        combination is impossible.
    """
    check_settings(base)
    given = {"smallest sizes": min_sigmas, "largest sizes": max_sigmas}
    given |= thresholds if isinstance(thresholds, Mapping) else {"thresholds by method": None}
    for name, values in given.items():
        if (
            not isinstance(values, Sequence | np.ndarray)
            or isinstance(values, str)
            or not len(values)
        ):
            raise ValueError(f"{name}: a list of numbers was expected, not {shown(values)}.")
    if base.method not in thresholds:
        raise ValueError(
            f"method is {base.method!r}, but thresholds are given for "
            f"{', '.join(thresholds) or 'no method'}."
        )
    lengths = {method: len(values) for method, values in thresholds.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(
            f"Every method needs as many thresholds as the others, but they have {lengths}: "
            "otherwise the best of one is chosen from more tries than the best of another."
        )
    return [
        replace(base, method=method, threshold=threshold, min_sigma=low, max_sigma=high)
        for method, values in thresholds.items()
        for low, high, threshold in itertools.product(min_sigmas, max_sigmas, values)
    ]


def run_trials(
    images: pd.DataFrame, prepared_dir: str | Path, settings: Sequence[DetectionSettings]
) -> Trials:
    """Detect the cells of ``images.csv``'s rows given with every setting; see `Trials`."""
    folder = from_root(prepared_dir)
    check_settings(*settings)
    if images.empty or not settings:
        raise ValueError(
            f"There is nothing to try: {len(images)} images and {len(settings)} settings were "
            "given, but at least one of each was expected (tuning_images, thresholds, sizes)."
        )

    def detect(path: str) -> list[tuple[NDArray[np.float64], float]]:
        rgb = read_rgb(folder / path)
        images_searched, results = {}, []
        for setting in settings:
            key = replace(setting, method="log", threshold=1)
            if key not in images_searched:
                images_searched[key] = searched(rgb, setting)
            started = time.perf_counter()
            cells = detect_in(images_searched[key], setting)
            results.append((cells, time.perf_counter() - started))
        return results

    bar = {"desc": "tuning", "leave": False, "disable": no_bar()}
    done = thread_map(detect, images["path"], max_workers=os.cpu_count(), **bar)
    rows, found = [], {}
    for image_id, results in zip(images["image_id"], done, strict=True):
        for number, (setting, (cells, seconds)) in enumerate(zip(settings, results, strict=True)):
            found[number, image_id] = cells
            sizes = setting.sigmas()[1:]
            nearest = np.abs(cells[:, 2, None] - sizes).argmin(axis=1)
            at_ends = np.isin(nearest, [0, len(sizes) - 1]).mean() if len(cells) else 0.0
            values = [getattr(setting, name) for name in GRID]
            rows.append([number, *values, image_id, len(cells), seconds, at_ends])
    columns = ["setting", *GRID, "image_id", "cells", "seconds", "at_ends"]
    return Trials(list(settings), found, pd.DataFrame(rows, columns=columns))


def score_trials(trials: Trials, truth: pd.DataFrame | None, max_distance: float) -> pd.DataFrame:
    """Rank the settings of each method.

    Parameters
    ----------
    trials : Trials
        From `run_trials`.
    truth : DataFrame or None
        ``image_id``, ``y`` and ``x`` of true centres (`read_truth`), if there are any.
    max_distance : float
        Largest distance in px at which two centres count as the same cell.

    Returns
    -------
    DataFrame
        One row a setting (index), best first within each method: its values;
        ``cells`` an image; ``seconds`` an image; ``at_ends``, the share of cells of the
        smallest or largest size; ``stability``, the mean F1 against the settings one step
        away; ``agreement``, against the setting of each other method that agrees best;
        with truth also ``precision``, ``recall``, ``f1``, ``error`` (px), ``found_twice``
        and ``found_as_one``, over all images together; and ``rank_by``, the value ranked by.

    Raises
    ------
    ValueError
        If there is truth, but of none of the images.
    """
    grouped = trials.table.groupby("setting")
    scores = grouped[[*GRID]].first().join(grouped[["cells", "seconds", "at_ends"]].mean())
    by_number = dict(enumerate(scores.index))
    agreements = agreement_between(trials, by_number, max_distance).fillna(0).to_numpy()
    methods = scores["method"].to_numpy()
    # places of the settings in the grid, along each of its axes
    places = scores.groupby("method")[[*GRID[1:]]].rank("dense").to_numpy()
    one_step = np.abs(places[:, None] - places).sum(axis=2) == 1
    one_step &= methods[:, None] == methods
    scores["stability"] = [
        row[near].mean() if near.any() else np.nan
        for row, near in zip(agreements, one_step, strict=True)
    ]
    others = {m: [other for other in np.unique(methods) if other != m] for m in methods}
    scores["agreement"] = [
        np.mean([row[methods == other].max() for other in others[m]]) if others[m] else np.nan
        for row, m in zip(agreements, methods, strict=True)
    ]
    if truth is None:
        scores["rank_by"] = scores[["stability", "agreement"]].mean(axis=1) - scores["at_ends"]
    else:
        image_ids = trials.table["image_id"].unique()
        centres = {i: truth.loc[truth["image_id"] == i, ["y", "x"]].to_numpy() for i in image_ids}
        without = [i for i, points in centres.items() if not len(points)]
        if len(without) == len(image_ids):
            raise ValueError(
                f"None of the {len(image_ids)} images tried has a true centre. Choose others with "
                "seed or tuning_images, or score without truth."
            )
        if without:
            print(
                f"Caution: {len(without)} of the {len(image_ids)} images tried have no true "
                f"centre, so whatever is found there counts as wrong: {', '.join(without)}."
            )
        pooled = [
            _pooled([(trials.found[number, i], centres[i]) for i in image_ids], max_distance)
            for number in scores.index
        ]
        scores = scores.join(pd.DataFrame(pooled, index=scores.index))
        scores["rank_by"] = scores["f1"]
    order = {method: place for place, method in enumerate(dict.fromkeys(methods))}
    ranked = scores.sort_values("rank_by", ascending=False, kind="stable")
    return ranked.sort_values("method", key=lambda column: column.map(order), kind="stable")


def best_of_each(scores: pd.DataFrame) -> dict[str, int]:
    """Return the number of the best setting of each method, in the order of the grid."""
    best = scores.groupby("method", sort=False).head(1)
    return dict(zip(best["method"], best.index.tolist(), strict=True))


def agreement_between(
    trials: Trials, numbers: Mapping[object, int], max_distance: float
) -> pd.DataFrame:
    """Return the F1 between what each two settings found, over all images together.

    Parameters
    ----------
    trials : Trials
        From `run_trials`.
    numbers : mapping of name to int
        The settings to compare, such as `best_of_each`.
    max_distance : float
        Largest distance in px at which two centres count as the same cell.

    Returns
    -------
    DataFrame
        Rows and columns by name; NaN where neither found anything.
    """
    image_ids = trials.table["image_id"].unique()
    table = pd.DataFrame(1.0, index=list(numbers), columns=list(numbers))
    for (one, a), (other, b) in itertools.combinations(numbers.items(), 2):
        pairs = [(trials.found[a, i], trials.found[b, i]) for i in image_ids]
        table.loc[one, other] = table.loc[other, one] = _pooled(pairs, max_distance)["f1"]
    return table


def _pooled(pairs: Sequence[tuple[NDArray, NDArray]], max_distance: float) -> dict[str, float]:
    """Score what was found in several images against others, as if they were one image."""
    table = pd.DataFrame([match_detections(*pair, max_distance) for pair in pairs])
    total = table[["found", "true", "matched", "found_twice", "found_as_one"]].sum()
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "precision": np.divide(total["matched"], total["found"]),
            "recall": np.divide(total["matched"], total["true"]),
            "f1": np.divide(2 * total["matched"], total["found"] + total["true"]),
            "error": (table["error"] * table["matched"]).sum() / max(total["matched"], 1),
            "found_twice": total["found_twice"],
            "found_as_one": total["found_as_one"],
        }
