"""Numbers for what Grad-CAM maps are said to show, with intervals over images."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd


def cell_numbers(maps: np.ndarray, labels: np.ndarray, inside: np.ndarray) -> pd.DataFrame:
    """Say how much of each map lies in its cell, in neighbours, and in the background.

    Parameters
    ----------
    maps : ndarray
        float (N, H, W), not negative.
    labels : ndarray
        int (N, H, W), the cells of each patch: 0 background, any other value a cell.
    inside : ndarray
        bool (N, H, W), the patch's own cell; nowhere true for a false detection.

    Returns
    -------
    DataFrame
        One row a patch: ``share`` of the map's mass inside its cell, ``area`` that the cell
        covers, ``excess`` of the share over that area, ``share_neighbours`` and
        ``area_neighbours``, and ``pointing``, 1 if the map's highest pixel lies in the cell.
        All fractions; NaN where the map is zero or there is no cell.
    """
    neighbours = (labels > 0) & ~inside
    mass = maps.sum(axis=(1, 2))
    valid = (mass > 0) & inside.any(axis=(1, 2))
    mass = np.where(valid, mass, np.nan)
    peaks = maps.reshape(len(maps), -1).argmax(axis=1)
    hits = inside.reshape(len(maps), -1)[np.arange(len(maps)), peaks]
    share = (maps * inside).sum(axis=(1, 2)) / mass
    area = np.where(valid, inside.mean(axis=(1, 2)), np.nan)
    return pd.DataFrame(
        {
            "share": share,
            "area": area,
            "excess": share - area,
            "share_neighbours": (maps * neighbours).sum(axis=(1, 2)) / mass,
            "area_neighbours": np.where(valid, neighbours.mean(axis=(1, 2)), np.nan),
            "pointing": np.where(valid, hits, np.nan),
        }
    )


def image_numbers(map_: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Say how much of a whole image's map lies on cells, and on how few of them.

    Parameters
    ----------
    map_ : ndarray
        float (H, W), not negative.
    labels : ndarray
        int (H, W), 0 background, each other value one cell.

    Returns
    -------
    dict
        ``share`` of the mass on cells, ``area`` they cover, ``cells``, their number, and
        ``gini``, the Gini coefficient of the map's mean over each cell: 0 if all are lit
        equally, towards 1 if one cell has it all. NaN where the map is zero or there is no
        cell.
    """
    values, flat = np.unique(labels, return_inverse=True)
    mass = np.bincount(flat.ravel(), map_.ravel())
    area = np.bincount(flat.ravel())
    cells = values > 0
    if mass.sum() == 0 or not cells.any():
        return {"share": np.nan, "area": np.nan, "cells": int(cells.sum()), "gini": np.nan}
    return {
        "share": mass[cells].sum() / mass.sum(),
        "area": area[cells].sum() / area.sum(),
        "cells": int(cells.sum()),
        "gini": gini(mass[cells] / area[cells]),
    }


def image_table(maps: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """Return `image_numbers` of each of N images, one row an image."""
    return pd.DataFrame([image_numbers(m, cells) for m, cells in zip(maps, labels, strict=True)])


def gini(values: np.ndarray) -> float:
    """Return the Gini coefficient of non-negative values: 0 all equal, 1 - 1/n one has all."""
    ordered = np.sort(values)
    count, total = len(ordered), ordered.sum()
    if total == 0:
        return math.nan
    return float((2 * np.arange(1, count + 1) - count - 1) @ ordered / (count * total))


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
        ``low``, ``high``, ``samples`` and ``images`` that entered.
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
        weights = rng.multinomial(images, np.full(images, 1 / images), size=resamples)
        tails = ((1 - level) / 2, (1 + level) / 2)
        low, high = np.quantile((weights @ sums) / (weights @ counts), tails)
        mean = sums.sum() / counts.sum()
        rows.append((name, column, mean, low, high, int(counts.sum()), images))
    names = ["class", "number", "mean", "low", "high", "samples", "images"]
    return pd.DataFrame(rows, columns=names)
