"""How well detected cells agree with true centres, or two detections with each other."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial import distance

from hsc_utils.detection.checks import check_numbers, shown
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
        in px; ``found_twice``, detections left over that lie within the distance of a
        true centre another one was paired with; ``found_as_one``, true centres left over
        likewise.

    Raises
    ------
    ValueError
        If centres are not as described, or a distance is not above 0.
    """
    with_sigma = max_sigma_difference != math.inf
    found, truth = (
        _centres(name, points, 3 if with_sigma else 2)
        for name, points in (("found", found), ("truth", truth))
    )
    check_numbers(max_distance=max_distance)
    if not max_distance > 0:
        raise ValueError(f"max_distance must be positive, but is {max_distance}.")
    if with_sigma:
        check_numbers(max_sigma_difference=max_sigma_difference)
        if not max_sigma_difference >= 0:
            raise ValueError(f"max_sigma_difference is {max_sigma_difference}, which is not >= 0.")
    apart = distance.cdist(found[:, :2], truth[:, :2])
    near = apart <= max_distance
    if with_sigma:
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
        "found_twice": int(np.delete(near, rows, axis=0).any(axis=1).sum()),
        "found_as_one": int(np.delete(near, columns, axis=1).any(axis=0).sum()),
    }


def _centres(name: str, points: ArrayLike, columns: int) -> NDArray[np.float64]:
    """Return points as an array (N, 2 or more), or say in a sentence why they are none."""
    try:
        points = np.asarray(points, float)
    except (TypeError, ValueError):  # texts, or rows of different lengths
        raise ValueError(
            f"{name} is {shown(points)}, but numbers of shape (N, {columns} or more) were expected."
        ) from None
    if not points.size:
        return np.empty((0, 3))
    if points.ndim != 2 or points.shape[1] < columns:
        raise ValueError(
            f"{name} has the shape {points.shape}, but (N, {columns} or more) was expected: y, x"
            f"{', sigma' * (columns > 2)} of each cell."
        )
    if not np.isfinite(points[:, :columns]).all():
        raise ValueError(
            f"{name} holds NaN or infinite values. Leave out cells whose centre is unknown."
        )
    return points


def agreement(found: ArrayLike, other: ArrayLike, scale_step: float) -> float:
    """Return the F1 of two detections of the same blobs, within 2 px and one step of sigma."""
    if not len(found) and not len(other):
        return 1.0
    # a hair more, for sigmas that differ by rounding
    return match_detections(found, other, 2, max_sigma_difference=scale_step + 1e-6)["f1"]


# By their lower case. Ours and most tables; Fiji; napari (axis-0, axis-1); QuPath in pixels.
_Y_NAMES = ("y", "axis-0", "centroid y px", "y_px")
_X_NAMES = ("x", "axis-1", "centroid x px", "x_px")
_IMAGE_NAMES = ("source", "image_id", "image", "label", "filename", "path")


def read_truth(path: str | Path, images: pd.DataFrame) -> pd.DataFrame:
    """Read true centres as the simulator, Fiji, napari or QuPath write them.

    Parameters
    ----------
    path : path
        One CSV for all images, with a column that names the image (its ``source``, its
        ``image_id`` or its file name), or a folder with one ``<image_id>.csv`` an image.
    images : DataFrame
        ``images.csv``: the images to look for.

    Returns
    -------
    DataFrame
        ``image_id``, ``y`` and ``x`` in px. Images of the table that have no points are
        absent; points of other images are left out, and so are points outside the image.

    Raises
    ------
    FileNotFoundError
        If there is no such file, or a folder without any of the images.
    ValueError
        If no column holds y, x or the image, or no image is one of the table.
    """
    path = from_root(path)
    if path.is_dir():
        files = {i: path / f"{i}.csv" for i in images["image_id"] if (path / f"{i}.csv").exists()}
        if not files:
            raise FileNotFoundError(f"{shown_path(path)} holds no <image_id>.csv of these images.")
        tables = [_points(_read_csv(f), f).assign(image_id=i) for i, f in files.items()]
        points = pd.concat(tables, ignore_index=True)
    elif not path.exists():
        raise FileNotFoundError(
            f"{shown_path(path)} is missing. Give a CSV of true centres, or None."
        )
    else:
        table = _read_csv(path)
        named = table[_column(table, _IMAGE_NAMES, "the image", path)]
        names = _names(images)
        points = _points(table, path).assign(image_id=named.map(names))
        if (unclear := named.map(names) == "").any():
            raise ValueError(
                f"{shown_path(path)} names {named[unclear].iloc[0]!r}, as several images are "
                "called. Name images by their source or image_id of images.csv."
            )
        if points["image_id"].isna().all():
            first = f"names {named.iloc[0]!r} and others" if len(named) else "has no rows"
            raise ValueError(f"{shown_path(path)} {first}, but none of the images.")
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


def _read_csv(path: Path) -> pd.DataFrame:
    """Read a table of another program as texts: an image called 007 keeps its name."""
    try:
        return pd.read_csv(path, dtype=str, encoding_errors="replace")
    except (ValueError, OSError) as error:
        raise ValueError(
            f"{shown_path(path)} cannot be read as a table ({type(error).__name__}: "
            f"{str(error)[:80]}). A CSV of true centres was expected."
        ) from error


def _points(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    y, x = _column(table, _Y_NAMES, "y", path), _column(table, _X_NAMES, "x", path)
    try:
        return pd.DataFrame({"y": table[y], "x": table[x]}).astype(float)
    except ValueError as error:
        raise ValueError(
            f"{shown_path(path)} holds something else than numbers in {y} or {x} ({error})."
        ) from error


def _column(table: pd.DataFrame, names: tuple[str, ...], what: str, path: Path) -> str:
    known = {column.strip().lower(): column for column in table.columns}
    for name in names:
        if name in known:
            return known[name]
    raise ValueError(
        f"{shown_path(path)} has no column for {what}; expected one of {', '.join(names)}, "
        f"in pixels, but it has {', '.join(table.columns)}."
    )
