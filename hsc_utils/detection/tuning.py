"""Try many detection settings on a few images, with the same effort for each method.

With true centres the settings are ranked by F1. Without, by what can be known: whether
neighbouring settings and the other methods find the same cells, and whether many cells
have the smallest or largest size allowed, which says that the range of sizes is wrong.
"""

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import cpu_count
from numpy.typing import NDArray
from scipy.spatial import distance
from tqdm.contrib.concurrent import thread_map

from hsc_utils import manifest, metrics
from hsc_utils.detection.blobs import DetectionSettings, check_settings, detect_in, searched
from hsc_utils.detection.checks import as_array
from hsc_utils.detection.matching import match_detections, shares
from hsc_utils.files import from_root, no_bar, read_rgb

GRID = ("method", "min_sigma", "max_sigma", "threshold")
METHOD_NAMES = {"log": "LoG", "dog": "DoG", "doh": "DoH"}
_WORDS = {"min_sigma": "smallest size", "max_sigma": "largest size", "threshold": "threshold"}
_MANY_AT_ENDS = 0.2  # a share of cells at the ends of the range that is worth a word
_FAR = 0.1  # of F1, by which another method is far better than the one used
_EQUAL = 0.01  # settings whose values lie this near the best are as good, to a cell or so


@dataclass(frozen=True)
class Trials:
    """What every setting of a grid found in every image.

    The table has a row per setting and image: ``setting``, its values (`GRID`), ``image_id``,
    ``cells``, ``seconds``, ``at_ends`` (share of cells of the smallest or largest size).
    """

    settings: list[DetectionSettings]
    found: dict[tuple[int, str], NDArray[np.float64]]  # by setting and image_id: y, x, sigma in px
    table: pd.DataFrame


def make_grid(
    thresholds: Mapping[str, Sequence[float]],
    min_sigmas: Sequence[float],
    max_sigmas: Sequence[float],
    base: DetectionSettings,
) -> list[DetectionSettings]:
    """Combine every size range (px) with every threshold of each method.

    A ValueError asks for equally many thresholds a method. All else is the base's, whose method
    must be among those tried.
    """
    check_settings(base)
    given = {"smallest sizes": min_sigmas, "largest sizes": max_sigmas}
    given |= thresholds if isinstance(thresholds, Mapping) else {"thresholds by method": None}
    for name, values in given.items():
        array = as_array(values)
        if array.ndim != 1 or not array.size:
            raise ValueError(f"{name}: a list of numbers was expected, not {values!r}.")
    if base.method not in thresholds:
        known = ", ".join(thresholds) or "no method"
        raise ValueError(f"method is {base.method!r}, but thresholds are given for {known}.")
    lengths = {method: len(values) for method, values in thresholds.items()}
    if len(set(lengths.values())) != 1:
        fair = "For a fair choice every method needs as many thresholds as the others"
        raise ValueError(f"{fair}, but they have {lengths}.")
    return [
        replace(base, method=method, threshold=threshold, min_sigma=low, max_sigma=high)
        for method, values in thresholds.items()
        for low, high, threshold in itertools.product(min_sigmas, max_sigmas, values)
    ]


def tuning_sample(
    images: pd.DataFrame, count: int, seed: int, truth: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Choose the images to tune on: never of the test subset, whose cells must not decide.

    Parameters
    ----------
    images : DataFrame
        ``images.csv``.
    count, seed
        As for `manifest.sample_images`.
    truth : DataFrame, optional
        From `read_truth`, where only some images were annotated: only these can be scored, and
        whatever is found in others would count as wrong.

    Raises
    ------
    ValueError
        If all annotated images are of the test subset.
    """
    tunable = images[images["split"] == "train"]
    if truth is not None:
        annotated = images[images["image_id"].isin(truth["image_id"])]
        tunable = annotated[annotated["split"] != "test"]
        if tunable.empty:
            raise ValueError(
                f"The {len(annotated)} images with true centres are all of the test subset, whose "
                "cells must not decide how cells are found. Annotate images for training "
                "(column split of images.csv), or leave truth_csv out."
            )
    return manifest.sample_images(tunable if len(tunable) else images, count, seed)


def run_trials(
    images: pd.DataFrame, prepared_dir: str | Path, settings: Sequence[DetectionSettings]
) -> Trials:
    """Detect the cells of rows of ``images.csv`` with every setting; see `Trials`."""
    folder = from_root(prepared_dir)
    check_settings(*settings)
    if images.empty or not settings:
        raise ValueError(
            f"There is nothing to try: {len(images)} images and {len(settings)} settings were "
            "given. Raise tuning_images, or give thresholds and sizes."
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
    done = thread_map(detect, images["path"], max_workers=cpu_count(), **bar)
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
    trials, truth
        From `run_trials`, and from `read_truth` if there is any for these images.
    max_distance : float
        Largest distance in px at which two centres count as the same cell.

    Returns
    -------
    DataFrame
        One row per setting (index), best first within each method; of those within 0.01 of the
        best, which is a cell or so, the one farthest inside the grid comes first. Columns: its
        values; ``cells`` and ``seconds`` an image; ``at_ends``, the share of cells of the
        smallest or largest size; ``stability``, the mean F1 against the settings one step away;
        ``agreement``, against the setting of each other method that agrees best; with truth
        also ``precision``, ``recall``, ``f1``, ``error`` (px), ``found_twice`` and ``merged``
        (detections whose circle holds several true centres), over all images
        together; and ``rank_by``, the value ranked by.
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
        centres = _true_centres(trials, truth)
        without = [i for i, points in centres.items() if not len(points)]
        if len(without) == len(centres):
            raise ValueError(
                f"None of the {len(centres)} images tried has a true centre. Choose others (seed, "
                "tuning_images), or score without truth."
            )
        if without:
            print(
                f"Caution: {len(without)} of the {len(centres)} images tried have no true centre; "
                f"whatever is found there counts as wrong: {', '.join(without)}."
            )
        pooled = [_pooled(_matched(trials, n, centres, max_distance)) for n in scores.index]
        scores = scores.join(pd.DataFrame(pooled, index=scores.index))
        scores["merged"] = [
            sum(_merged(trials.found[number, i], there) for i, there in centres.items())
            for number in scores.index
        ]
        scores["rank_by"] = scores["f1"]
    best = scores.groupby("method")["rank_by"].transform("max")
    edges = _at_edges(scores).sum(axis=1).where(scores["rank_by"] >= best - _EQUAL, len(GRID))
    order = scores.assign(edges=edges)
    order = order.sort_values(["edges", "rank_by"], ascending=[True, False], kind="stable").index
    return pd.concat([scores.loc[order][methods[order] == m] for m in dict.fromkeys(methods)])


def _at_edges(scores: pd.DataFrame) -> pd.DataFrame:
    """Tell for each setting which of its values are the first or last of several tried."""
    of_method = scores.groupby("method")[[*GRID[1:]]]
    lowest, highest = of_method.transform("min"), of_method.transform("max")
    values = scores[[*GRID[1:]]]
    return (lowest < highest) & ((values == lowest) | (values == highest))


def grid_findings(scores: pd.DataFrame) -> list[str]:
    """Say in sentences where the grid itself decided what was found.

    Of each method in `score_trials`'s table: whether its best settings lie at the edge of the
    grid, which thresholds change nothing, and whether many cells have a size at the range's end.
    """
    at_edges, sentences = _at_edges(scores), []
    for method, number in best_of_each(scores).items():
        name, of_method = METHOD_NAMES[method], scores[scores["method"] == method]
        best, edges = scores.loc[number], at_edges.loc[number]
        if edges.any():
            where = ", ".join(f"{_WORDS[k]} {best[k]:g}" for k in edges.index[edges])
            sentences.append(
                f"{name}: its best settings lie at the edge of the grid ({where}), so better ones "
                "may lie beyond: widen the grid there."
            )
        else:
            sentences.append(f"{name}: its best settings lie inside the grid.")
        for alike in _alike(of_method):
            sentences.append(
                f"{name}: thresholds {' and '.join(map('{:g}'.format, alike))} find the same "
                "cells, whatever the sizes: nothing has a response between them."
            )
        if best["at_ends"] > _MANY_AT_ENDS:
            fitting = of_method.loc[of_method["at_ends"] <= _MANY_AT_ENDS, "rank_by"].max()
            worse = f"; ranges that hold more of them rank lower ({fitting:.3f} at best)"
            sentences.append(
                f"{name}: {best['at_ends']:.0%} of the cells have the smallest or largest size "
                "tried, so its sizes say little of how large cells are"
                f"{'' if np.isnan(fitting) else worse}."
            )
    return sentences


def _alike(of_method: pd.DataFrame) -> list[list[float]]:
    """Group the thresholds of one method that find the same cells with every range of sizes."""
    by_size = of_method.sort_values(["min_sigma", "max_sigma"])
    groups: dict[bytes, list[float]] = {}
    for threshold, part in by_size.groupby("threshold"):
        found = part[["cells", "at_ends", "agreement"]].to_numpy().tobytes()
        groups.setdefault(found, []).append(threshold)
    return [alike for alike in groups.values() if len(alike) > 1]


def best_of_each(scores: pd.DataFrame) -> dict[str, int]:
    """Return the number of the best setting of each method, in the order of the grid."""
    best = scores.groupby("method", sort=False).head(1)
    return dict(zip(best["method"], best.index.tolist(), strict=True))


# rows of `best_settings`: the columns of `score_trials` that make them, and how they are written
_ROWS = {
    "sizes searched (sigma, px)": "{min_sigma:g} to {max_sigma:g}",
    "threshold": "{threshold:g}",
    "cells per image": "{cells:.1f}",
    "precision": "{precision:.3f}",
    "recall": "{recall:.3f}",
    "F1": "{f1:.3f}",
    "distance from the true centre (px)": "{error:.1f}",
    "cells found twice": "{found_twice:.0f}",
    "circles around several cells": "{merged:.0f}",
    "agreement with settings one step away (F1)": "{stability:.3f}",
    "agreement with the other methods (F1)": "{agreement:.3f}",
    "cells of the smallest or largest size": "{at_ends:.0%}",
    "seconds per image": "{seconds:.3f}",
}


def best_settings(scores: pd.DataFrame, best: Mapping[str, int]) -> pd.DataFrame:
    """Lay out `best_of_each` for a reader: one column per method, one row per number, as text."""
    texts = {}
    for method, number in best.items():
        row = scores.loc[number].to_dict()
        known = {name: form for name, form in _ROWS.items() if form[1:].split(":")[0] in row}
        texts[METHOD_NAMES[method]] = {name: form.format(**row) for name, form in known.items()}
    return pd.DataFrame(texts).rename_axis("best settings")


def method_differences(
    trials: Trials, scores: pd.DataFrame, truth: pd.DataFrame | None, max_distance: float
) -> pd.DataFrame:
    """Compare every two methods, each at its best settings, by F1 and by precision.

    Parameters
    ----------
    trials, truth, max_distance
        As for `score_trials`.
    scores : DataFrame
        What `score_trials` returned.

    Returns
    -------
    DataFrame
        One row per score (``f1``, ``precision``) and pair: ``method`` (the one with the higher F1),
        ``against``, their scores ``value`` and ``value_against`` over all images together, and
        ``estimate``, the difference, with its 95 % jackknife interval over the images (``low``,
        ``high``; see `metrics.widest_interval`), NaN where no image alone moves it or ``images``
        are fewer than `metrics.MIN_IMAGES`. No row without truth.
    """
    columns = ["method", "against", "score", "value", "value_against"]
    columns += ["estimate", "low", "high", "images"]
    if truth is None:
        return pd.DataFrame(columns=columns)
    centres = _true_centres(trials, truth)
    weights = metrics.leave_one_out(np.arange(len(centres)))
    by_score: dict[str, dict[str, NDArray]] = {"f1": {}, "precision": {}}
    for method, number in best_of_each(scores).items():
        matched = _matched(trials, number, centres, max_distance)
        hits, found = weights @ matched["matched"], weights @ matched["found"]
        by_score["f1"][method] = 2 * hits / np.maximum(found + weights @ matched["true"], 1)
        by_score["precision"][method] = hits / np.maximum(found, 1)
    order = sorted(by_score["f1"], key=lambda method: -by_score["f1"][method][0])
    rows = []
    for score, (one, other) in itertools.product(by_score, itertools.combinations(order, 2)):
        ours, theirs = by_score[score][one], by_score[score][other]
        enough = len(centres) >= metrics.MIN_IMAGES
        ends = metrics.widest_interval([ours - theirs] * enough, 0.95)
        values = ours[0], theirs[0], ours[0] - theirs[0]
        rows.append((one, other, score, *values, *ends, len(centres)))
    return pd.DataFrame(rows, columns=columns)


def rank_methods(differences: pd.DataFrame) -> list[str]:
    """Say in sentences which methods of `method_differences` differ in F1."""
    if differences.empty:
        return ["Without true centres nobody can say which method finds the cells best."]
    sentences = []
    for row in differences[differences["score"] == "f1"].itertuples():
        name, other = METHOD_NAMES[row.method], METHOD_NAMES[row.against]
        gap = f"difference {row.estimate:+.3f}"
        if not np.isnan(row.low):
            gap += f", {row.low:+.3f} to {row.high:+.3f}"
        values = f"F1 {row.value:.3f} and {row.value_against:.3f}, {gap}"
        if row.images < metrics.MIN_IMAGES:
            few = f"too few images to say ({metrics.MIN_IMAGES} are needed)"
            sentences.append(f"{name} and {other}: {values}; {few}.")
        elif row.low > 0:
            sentences.append(f"{name} finds the cells better than {other}: {values}.")
        else:
            sentences.append(f"{name} and {other} are not told apart: {values}.")
    return sentences


def method_findings(scores: pd.DataFrame, best: dict[str, int], method: str) -> list[str]:
    """Say whether another method, at its best settings, finds the cells far better."""
    if "f1" not in scores:
        return []
    reached = {name: float(scores.loc[number, "f1"]) for name, number in best.items()}
    first = max(reached, key=reached.get)
    if reached[first] - reached[method] < _FAR:
        return []
    return [
        f"CAUTION: {first.upper()} finds the cells far better (F1 {reached[first]:.3f}) than "
        f"{method.upper()} ({reached[method]:.3f}), which is used: set method to {first}, or widen "
        f"the sizes and thresholds of {method}."
    ]


def agreement_between(
    trials: Trials, numbers: Mapping[object, int], max_distance: float
) -> pd.DataFrame:
    """Return the F1 between each two settings given by name, over all images; NaN if undefined."""
    image_ids = trials.table["image_id"].unique()
    table = pd.DataFrame(1.0, index=list(numbers), columns=list(numbers))
    for (one, a), (other, b) in itertools.combinations(numbers.items(), 2):
        theirs = {i: trials.found[b, i] for i in image_ids}
        f1 = _pooled(_matched(trials, a, theirs, max_distance))["f1"]
        table.loc[one, other] = table.loc[other, one] = f1
    return table


def _true_centres(trials: Trials, truth: pd.DataFrame) -> dict[str, NDArray]:
    """Return the true centres of each image tried, empty where there are none."""
    image_ids = trials.table["image_id"].unique()
    return {i: truth.loc[truth["image_id"] == i, ["y", "x"]].to_numpy() for i in image_ids}


def _matched(
    trials: Trials, number: int, centres: Mapping[str, NDArray], max_distance: float
) -> pd.DataFrame:
    """Match what a setting found in each image with centres there: a row per image."""
    found = ((trials.found[number, image_id], there) for image_id, there in centres.items())
    return pd.DataFrame([match_detections(*pair, max_distance) for pair in found])


def _merged(found: NDArray[np.float64], centres: NDArray) -> int:
    """Count the detections whose circle, of radius 1.41 sigma, holds several true centres."""
    apart = distance.cdist(found[:, :2], centres.reshape(-1, 2))
    return int(((apart <= np.sqrt(2) * found[:, 2:]).sum(axis=1) > 1).sum())


def _pooled(matched: pd.DataFrame) -> dict[str, float]:
    """Score all images together, as if they were one."""
    total = matched[["matched", "found", "true", "found_twice"]].sum()
    error = (matched["error"] * matched["matched"]).sum() / max(total["matched"], 1)
    scores = shares(*total[["matched", "found", "true"]])
    return scores | {"error": error, "found_twice": total["found_twice"]}
