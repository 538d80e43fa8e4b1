"""How well detected cells agree with true centres, or two detections with each other."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial import distance

from hsc_utils.detection.checks import check, check_numbers, check_rules
from hsc_utils.files import from_root, shown_path


def match_detections(
    found: ArrayLike,
    truth: ArrayLike,
    max_distance: float,
    *,
    max_sigma_difference: float = math.inf,
) -> dict[str, float]:
    """Pair detections with true centres one to one, and score them.

    As many pairs as possible are made within the distance, and of all such pairings
    the one with the smallest sum of distances. A ValueError refuses what is not as described.

    Parameters
    ----------
    found, truth : array_like, shape (N, 2 or more) and (M, 2 or more)
        y and x of each in px, and sigma if its difference is limited.
    max_distance, max_sigma_difference : float
        Largest distance of a pair, such as the radius of the smallest cell, and largest
        difference of its sigmas, in px.

    Returns
    -------
    dict
        ``precision``, ``recall``, ``f1`` in [0, 1] (NaN where there is nothing to divide
        by); ``found``, ``true``, ``matched`` counts; ``error``, the mean distance of a pair
        in px; ``found_twice``, detections left over that lie within the distance of a
        true centre another one was paired with; ``found_as_one``, centres left over likewise.
    """
    with_sigma = max_sigma_difference != math.inf
    found = _centres("found", found, 2 + with_sigma)
    truth = _centres("truth", truth, 2 + with_sigma)
    given = {"max_distance": max_distance}
    given |= {"max_sigma_difference": max_sigma_difference} if with_sigma else {}
    check_numbers(**given)
    rules = {
        "max_distance > 0": max_distance > 0,
        "max_sigma_difference >= 0": max_sigma_difference >= 0,
    }
    check_rules(given, rules)
    apart = distance.cdist(found[:, :2], truth[:, :2])
    near = apart <= max_distance
    if with_sigma:
        near &= np.abs(found[:, 2, None] - truth[:, 2]) <= max_sigma_difference
    # a pair more always outweighs any saving in distance
    reward = max_distance * (min(apart.shape, default=0) + 1)
    rows, columns = linear_sum_assignment(np.where(near, apart - reward, 0))
    paired = near[rows, columns]
    rows, columns = rows[paired], columns[paired]
    return shares(len(rows), len(found), len(truth)) | {
        "found": len(found),
        "true": len(truth),
        "matched": len(rows),
        "error": float(apart[rows, columns].mean()) if len(rows) else math.nan,
        "found_twice": int(np.delete(near, rows, axis=0).any(axis=1).sum()),
        "found_as_one": int(np.delete(near, columns, axis=1).any(axis=0).sum()),
    }


def shares(matched: int, found: int, true: int) -> dict[str, float]:
    """Return precision, recall and F1; NaN where there is nothing to divide by."""
    return {
        "precision": matched / found if found else math.nan,
        "recall": matched / true if true else math.nan,
        "f1": 2 * matched / (found + true) if found + true else math.nan,
    }


def _centres(name: str, points: ArrayLike, columns: int) -> NDArray[np.float64]:
    """Return points as an array (N, 2 or more), or say in a sentence why they are none."""
    wanted = f"(N, {columns} or more)"
    try:
        points = np.asarray(points, float)
    except (TypeError, ValueError):  # texts, or rows of different lengths
        check(False, name, points, f"numbers of shape {wanted} were expected")
    if not points.size:
        return np.empty((0, 3))
    if points.ndim != 2 or points.shape[1] < columns:
        raise ValueError(f"{name} has the shape {points.shape}, but {wanted} was expected.")
    if not np.isfinite(points[:, :columns]).all():
        raise ValueError(f"{name} holds NaN or infinite values: leave out cells without a centre.")
    return points


def agreement(found: ArrayLike, other: ArrayLike, scale_step: float) -> float:
    """Return the F1 of two detections of the same blobs, within 2 px and one step of sigma."""
    if not len(found) and not len(other):
        return 1.0
    # a hair more, for sigmas that differ by rounding
    return match_detections(found, other, 2, max_sigma_difference=scale_step + 1e-6)["f1"]


# By their lower case. Ours and most tables; Fiji; napari (axis-0, axis-1); QuPath in pixels.
_CENTRE = {
    "y": ("y", "axis-0", "centroid y px", "y_px"),
    "x": ("x", "axis-1", "centroid x px", "x_px"),
}
_IMAGE = {"the image": ("source", "image_id", "image", "label", "filename", "path")}


def read_truth(path: str | Path, images: pd.DataFrame) -> pd.DataFrame:
    """Read true centres as the simulator, Fiji, napari or QuPath write them.

    Returned are ``image_id``, ``y`` and ``x`` in px of the points within the images given.

    Parameters
    ----------
    path : path
        One CSV for all images, with a column that names the image (its ``source``, its
        ``image_id`` or its file name), or a folder with one ``<image_id>.csv`` an image.
    images : DataFrame
        ``images.csv``: the images to look for.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, or it has not the columns, or no image is one of the table.
    """
    path = from_root(path)
    shown = shown_path(path)
    if path.is_dir():
        files = {i: path / f"{i}.csv" for i in images["image_id"] if (path / f"{i}.csv").exists()}
        if not files:
            raise FileNotFoundError(f"{shown} holds no <image_id>.csv of these images.")
        tables = [_read_columns(f, _CENTRE).assign(image_id=i) for i, f in files.items()]
        points = pd.concat(tables, ignore_index=True)
    elif not path.exists():
        raise FileNotFoundError(f"{shown} is missing. Give a CSV of true centres, or None.")
    else:
        points = _read_columns(path, _IMAGE | _CENTRE)
        named = points.pop("the image")
        points["image_id"] = named.map(_names(images))
        if (unclear := points["image_id"] == "").any():
            raise ValueError(
                f"{shown} names {named[unclear].iloc[0]!r}, as several images are called. Name "
                "images by their source or image_id of images.csv."
            )
        if points["image_id"].isna().all():
            first = f"names {named.iloc[0]!r} and others" if len(named) else "has no rows"
            raise ValueError(f"{shown} {first}, but none of the images.")
    points = points.dropna().merge(images[["image_id", "height", "width"]])
    lies_inside = points["y"].between(0, points["height"] - 1)
    lies_inside &= points["x"].between(0, points["width"] - 1)
    return points.loc[lies_inside, ["image_id", "y", "x"]].reset_index(drop=True)


def _names(images: pd.DataFrame) -> dict[str, str]:
    """Map each name an image may go by to its image_id, or to nothing if it is several images'."""
    names = {}
    for column in ("source", "path"):
        short = images[column].map(lambda name: Path(name).name)
        ids = images["image_id"].mask(short.duplicated(keep=False), "")
        names |= dict(zip(short, ids, strict=True))
        names |= dict(zip(images[column], images["image_id"], strict=True))
    return names | {image_id: image_id for image_id in images["image_id"]}


def _read_columns(path: Path, wanted: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Read from a table of another program the centres, and the rest as texts: 007 stays 007."""
    shown = shown_path(path)
    try:
        table = pd.read_csv(path, dtype=str, encoding_errors="replace")
    except (ValueError, OSError) as error:
        reason = f"{type(error).__name__}: {str(error)[:80]}"
        raise ValueError(f"{shown} cannot be read as a table of centres ({reason}).") from error
    known = {column.strip().lower(): column for column in table.columns}
    found = {}
    for what, names in wanted.items():
        if not (column := next((known[name] for name in names if name in known), None)):
            raise ValueError(
                f"{shown} has no column for {what}: expected one of {', '.join(names)}, in pixels, "
                f"not {', '.join(table.columns)}."
            )
        found[what] = table[column]
    try:
        return pd.DataFrame(found).astype(dict.fromkeys(_CENTRE, float))
    except ValueError as error:
        raise ValueError(f"{shown} holds something else than numbers in y or x.") from error
