"""What differs between new images and those a model was trained on, to be said before it speaks."""

from collections.abc import Mapping

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

# What must be one of the training images' values, and the words for it.
_KINDS = {
    "slices": "number of slices",
    "channel_names": "names of the slices",
    "bit_depth": "bits per pixel",
    "objective": "objective",
    "size": "size in pixels",
    "simulated": "simulated",
}
# What must lie in the training images' range.
_RANGES = {
    "pixel_size_um": "size of a pixel, µm",
    "mean_r": "mean intensity, slice 0",
    "mean_g": "mean intensity, slice 1",
    "mean_b": "mean intensity, slice 2",
    "sharpness": "sharpness",
    "density": "cells per megapixel",
}
# How far beyond a range still counts as within: a share of its width, and of its middle. Twelve
# images of a new day would otherwise seldom all lie between the extremes of a few hundred.
_OF_WIDTH, _OF_MIDDLE = 0.25, 0.02


def sharpness(rgb: NDArray[np.uint8]) -> float:
    """Return the variance of an image's Laplacian as a share of its own variance."""
    gray = rgb.mean(axis=2, dtype=np.float32)
    return float(cv2.Laplacian(gray, cv2.CV_32F).var() / max(gray.var(), 1e-6))


def facts_of(images: pd.DataFrame) -> pd.DataFrame:
    """Bring rows of ``images.csv``, or of records like these, to the columns compared here.

    Those that the rows lack, as with ready cells, are left out.
    """
    facts = images.reindex(columns=[c for c in (*_KINDS, *_RANGES) if c in images])
    if {"height", "width"} <= {*images}:
        facts["size"] = images["height"].astype(str) + " × " + images["width"].astype(str)
    types = dict.fromkeys(_KINDS, str) | dict.fromkeys(_RANGES, float)
    return facts.astype({column: types[column] for column in facts})


def summary_of(facts: pd.DataFrame, classes: pd.Series) -> dict:
    """Say what training images were like, for a passport.

    Returned are ``kinds``, the values that occurred, most frequent first, and ``ranges``, the least
    and the most: of all images, but of ``density`` by class, of images with cells.
    """
    kinds = {name: facts[name].value_counts().index.tolist() for name in _KINDS if name in facts}
    ranges = {}
    for name in _RANGES:
        known = facts[name].dropna() if name in facts else ()
        if len(known):
            ranges[name] = [float(known.min()), float(known.max())]
    if "density" in facts:
        with_cells = facts.loc[facts["density"] > 0, "density"].groupby(classes)
        ranges["density"] = with_cells.agg(["min", "max"]).T.to_dict("list")
    return {"images": len(facts), "kinds": kinds, "ranges": ranges}


def differences_of(facts: pd.DataFrame, trained: Mapping) -> pd.DataFrame:
    """Compare each new image with the training images.

    Parameters
    ----------
    facts : DataFrame
        From `facts_of`, one row per new image.
    trained : mapping
        What `summary_of` said of the training images.

    Returns
    -------
    DataFrame
        One row per image and one column per question that both can answer, in words; in each the
        sentence that says how the image differs, or an empty text.
    """
    found = {}
    for name, words in _KINDS.items():
        if name in facts and (known := trained["kinds"].get(name)):
            listed = " or ".join(_shown(name, value) for value in known[:3])
            listed += " or others" * (len(known) > 3)
            told = [f"{words}: {_shown(name, v)}, trained on {listed}" for v in facts[name]]
            found[words] = pd.Series(told, facts.index).mask(facts[name].isin(known), "")
    for name, words in _RANGES.items():
        if name not in facts:
            continue
        values, ranges = facts[name], trained["ranges"].get(name)
        if ranges is None:
            unknown = f"{words}: not recorded in training"
            found[words] = pd.Series(unknown, facts.index).where(values.notna(), "")
            continue
        of_class = ranges.values() if isinstance(ranges, dict) else [ranges]
        within = np.logical_or.reduce([_within(values, *ends) for ends in of_class])
        low, high = min(e[0] for e in of_class), max(e[1] for e in of_class)
        told = [
            f"{words}: {_number(v)}, trained on {_number(low)} to {_number(high)}" for v in values
        ]
        found[words] = pd.Series(told, facts.index).mask(within, "")
    return pd.DataFrame(found, index=facts.index)


def _within(values: pd.Series, low: float, high: float) -> NDArray[np.bool_]:
    """Tell which values lie in a range or just beside it; none that is not known."""
    slack = _OF_WIDTH * (high - low) + _OF_MIDDLE * abs(low + high) / 2
    return values.between(low - slack, high + slack).to_numpy()


def _shown(name: str, value: str) -> str:
    """Write a value as a reader would say it."""
    if name == "simulated":
        return "simulated images" if value == "True" else "real images"
    return value.replace(";", ", ") or "not recorded"


def _number(value: float) -> str:
    return "not recorded" if np.isnan(value) else f"{value:.3g}"


def overview(differences: pd.DataFrame) -> pd.DataFrame:
    """Count the images that differ from the training images, by question.

    Returns
    -------
    DataFrame
        Columns ``question``, ``images that differ`` and ``the first of them``; those in which
        images differ come first.
    """
    rows = []
    for question in differences:
        told = differences.loc[differences[question] != "", question]
        first = told.iloc[0].removeprefix(f"{question}: ") if len(told) else ""
        rows.append((question, len(told), first))
    columns = ["question", "images that differ", "the first of them"]
    table = pd.DataFrame(rows, columns=columns)
    return table.sort_values(
        "images that differ", ascending=False, ignore_index=True, kind="stable"
    )
