"""True cell centres, for scoring detections and for nothing else."""

from pathlib import Path

import pandas as pd

from hsc_utils.provenance import from_root, shown_path

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
        tables = [_points(pd.read_csv(f), f).assign(image_id=i) for i, f in files.items()]
        points = pd.concat(tables, ignore_index=True)
    else:
        if not path.exists():
            raise FileNotFoundError(
                f"{shown_path(path)} is missing. Give a CSV of true centres, or None."
            )
        table = pd.read_csv(path)
        named = table[_column(table, _IMAGE_NAMES, "the image", path)].astype(str)
        points = _points(table, path).assign(image_id=named.map(_names(images)))
        if points["image_id"].isna().all():
            raise ValueError(
                f"{shown_path(path)} names {named.iloc[0]!r} and others, but none of the images."
            )
    points = points.dropna().merge(images[["image_id", "height", "width"]])
    inside = points["y"].between(0, points["height"] - 1) & points["x"].between(
        0, points["width"] - 1
    )
    return points.loc[inside, ["image_id", "y", "x"]].reset_index(drop=True)


def _names(images: pd.DataFrame) -> dict[str, str]:
    """Map each name an image may go by to its image_id; ambiguous file names are left out."""
    names = {}
    for column in ("source", "path"):
        if column in images:
            short = images[column].map(lambda name: Path(name).name)
            unique = ~short.duplicated(keep=False)
            names |= dict(zip(short[unique], images["image_id"][unique], strict=True))
            names |= dict(zip(images[column], images["image_id"], strict=True))
    return names | {image_id: image_id for image_id in images["image_id"]}


def _points(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    y, x = _column(table, _Y_NAMES, "y", path), _column(table, _X_NAMES, "x", path)
    return pd.DataFrame({"y": table[y], "x": table[x]}).astype(float)


def _column(table: pd.DataFrame, names: tuple[str, ...], what: str, path: Path) -> str:
    known = {column.strip().lower(): column for column in table.columns}
    for name in names:
        if name in known:
            return known[name]
    raise ValueError(
        f"{shown_path(path)} has no column for {what}; expected one of {', '.join(names)}, "
        f"in pixels, but it has {', '.join(table.columns)}."
    )
