"""Try many detection settings on a few images, with the same effort for each method.

With true centres the settings are ranked by F1. Without, by what can be known: whether
neighbouring settings and the other methods find the same cells, and whether many cells
have the smallest or largest size allowed, which says that the range of sizes is wrong.
"""

import itertools
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm.auto import tqdm

from hsc_utils.detection.blobs import DetectionSettings, detect_in, searched
from hsc_utils.detection.matching import match_detections
from hsc_utils.files import from_root, read_rgb
from hsc_utils.provenance import no_bar

GRID = ("method", "min_sigma", "max_sigma", "threshold")


@dataclass(frozen=True)
class Trials:
    """What every setting of a grid found in every image.

    Attributes
    ----------
    settings : list of DetectionSettings
        The grid.
    found : dict
        By index of the setting and image_id: y, x, sigma of the cells.
    table : DataFrame
        One row a setting and image: the setting's number and values, ``image_id``,
        ``class``, ``cells``, ``seconds``.
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

    Raises
    ------
    ValueError
        If the methods do not get equally many thresholds, or a combination is impossible.
    """
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
    """Detect cells in every image with every setting."""
    folder = from_root(prepared_dir)
    rows, found = [], {}

    def of_image(image: object) -> list[tuple[NDArray[np.float64], float]]:
        rgb = read_rgb(folder / image.path)
        images_searched, results = {}, []
        for setting in settings:
            key = replace(setting, method="log", threshold=1)
            if key not in images_searched:
                images_searched[key] = searched(rgb, setting)
            started = time.perf_counter()
            cells = detect_in(images_searched[key], setting)
            results.append((cells, time.perf_counter() - started))
        return results

    listed = list(images.rename(columns={"class": "label"}).itertuples())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(
            tqdm(pool.map(of_image, listed), "tuning", len(listed), disable=no_bar(), leave=False)
        )
    for image, of_settings in zip(listed, results, strict=True):
        for number, (cells, seconds) in enumerate(of_settings):
            found[number, image.image_id] = cells
            values = [getattr(settings[number], name) for name in GRID]
            rows.append(
                (number, *values, image.image_id, image.label, len(cells), seconds,
                 _share_at_ends(cells, settings[number]))
            )  # fmt: skip
    columns = ["setting", *GRID, "image_id", "class", "cells", "seconds", "at_ends"]
    return Trials(list(settings), found, pd.DataFrame(rows, columns=columns))


def _share_at_ends(cells: NDArray[np.float64], settings: DetectionSettings) -> float:
    sigmas = settings.sigmas()[1:]
    if not len(cells):
        return 0.0
    nearest = np.abs(cells[:, 2, None] - sigmas).argmin(axis=1)
    return float(np.isin(nearest, [0, len(sigmas) - 1]).mean())


def score_trials(trials: Trials, truth: pd.DataFrame | None, max_distance: float) -> pd.DataFrame:
    """Rank the settings of each method.

    Parameters
    ----------
    trials : Trials
        From `run_trials`.
    truth : DataFrame or None
        ``image_id``, ``y`` and ``x`` of true centres (`truth.read_truth`), if there are any.
    max_distance : float
        Largest distance in px at which two centres count as the same cell.

    Returns
    -------
    DataFrame
        One row a setting (index), best first within each method: its values;
        ``cells`` an image; ``seconds`` an image; ``stability``, the mean F1 against the
        settings one step away; ``agreement``, against the setting of each other method
        that agrees best; ``at_ends``, the share of cells of the smallest or largest size;
        with truth also ``precision``, ``recall``, ``f1``, ``error`` (px), ``split`` and
        ``merged``, over all images together; and ``rank_by``, the value ranked by.
    """
    grouped = trials.table.groupby("setting")
    scores = grouped[[*GRID]].first().assign(
        cells=grouped["cells"].mean(), seconds=grouped["seconds"].mean(),
        at_ends=grouped["at_ends"].mean(),
    )  # fmt: skip
    agreements = _agreements(trials, max_distance)
    steps = np.array([[_steps(a, b, scores) for b in scores.index] for a in scores.index])
    methods = scores["method"].to_numpy()
    scores["stability"] = [
        agreements[number, steps[number] == 1].mean() if (steps[number] == 1).any() else np.nan
        for number in scores.index
    ]
    scores["agreement"] = [
        np.mean([agreements[k, methods == m].max() for m in np.unique(methods) if m != methods[k]])
        if len(np.unique(methods)) > 1
        else np.nan
        for k in scores.index
    ]
    if truth is None:
        scores["rank_by"] = scores[["stability", "agreement"]].mean(axis=1) - scores["at_ends"]
    else:
        scores = scores.join(pd.DataFrame(_against(trials, truth, max_distance)).T)
        scores["rank_by"] = scores["f1"]
    order = {method: place for place, method in enumerate(dict.fromkeys(scores["method"]))}
    ranked = scores.sort_values("rank_by", ascending=False, kind="stable")
    return ranked.sort_values("method", key=lambda column: column.map(order), kind="stable")


def _steps(first: int, second: int, scores: pd.DataFrame) -> int:
    """Return how many steps in the grid lie between two settings; -1 for other methods."""
    a, b = scores.loc[first], scores.loc[second]
    if a["method"] != b["method"]:
        return -1
    same = scores[scores["method"] == a["method"]]
    total = 0
    for name in GRID[1:]:
        values = sorted(same[name].unique())
        total += abs(values.index(a[name]) - values.index(b[name]))
    return total


def _agreements(trials: Trials, max_distance: float) -> NDArray[np.float64]:
    """Return the F1 between what each two settings found, over all images together."""
    count = len(trials.settings)
    image_ids = trials.table["image_id"].unique()
    agreements = np.eye(count)
    for a, b in itertools.combinations(range(count), 2):
        pairs = [
            match_detections(trials.found[a, i], trials.found[b, i], max_distance)
            for i in image_ids
        ]
        agreements[a, b] = agreements[b, a] = _pooled(pairs)["f1"]
    return np.nan_to_num(agreements)


def _against(
    trials: Trials, truth: pd.DataFrame, max_distance: float
) -> dict[int, dict[str, float]]:
    centres = {name: points[["y", "x"]].to_numpy() for name, points in truth.groupby("image_id")}
    empty = np.empty((0, 2))
    image_ids = trials.table["image_id"].unique()
    return {
        number: _pooled(
            [
                match_detections(trials.found[number, i], centres.get(i, empty), max_distance)
                for i in image_ids
            ]
        )
        for number in range(len(trials.settings))
    }


def _pooled(matches: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Score several images as if they were one."""
    table = pd.DataFrame(matches)
    total = table[["found", "true", "matched", "split", "merged"]].sum()
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "precision": np.divide(total["matched"], total["found"]),
            "recall": np.divide(total["matched"], total["true"]),
            "f1": np.divide(2 * total["matched"], total["found"] + total["true"]),
            "error": (table["error"] * table["matched"]).sum() / max(total["matched"], 1),
            "split": total["split"],
            "merged": total["merged"],
        }


def best_of_each(trials: Trials, scores: pd.DataFrame) -> dict[str, int]:
    """Return the number of the best setting of each method, in the order of the grid."""
    best = scores.groupby("method", sort=False).head(1)
    return dict(zip(best["method"], best.index.tolist(), strict=True))


def agreement_between(trials: Trials, best: Mapping[str, int], max_distance: float) -> pd.DataFrame:
    """Return the F1 between the best settings of each two methods."""
    image_ids = trials.table["image_id"].unique()
    values = [
        [
            _pooled(
                [
                    match_detections(trials.found[a, i], trials.found[b, i], max_distance)
                    for i in image_ids
                ]
            )["f1"]
            for b in best.values()
        ]
        for a in best.values()
    ]
    return pd.DataFrame(values, index=list(best), columns=list(best))
