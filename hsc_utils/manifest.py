"""The tables `images.csv` and `cells.csv`: read and check them, split and count images."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from hsc_utils import reference
from hsc_utils.provenance import from_root, shown_path
from hsc_utils.split import SUBSETS, split_images

__all__ = [
    "CELL_COLUMNS",
    "IMAGE_COLUMNS",
    "SUBSETS",
    "compare_counts",
    "count_by_class",
    "near_duplicates",
    "read_cells",
    "read_images",
    "read_rejected",
    "split_images",
]

IMAGE_COLUMNS = (
    *("image_id", "path", "class", "split", "group", "slices", "sha256", "acquired_at"),
    *("pixel_size_um", "height", "width", "source", "bit_depth", "channel_names", "objective"),
    *("simulated", "fourth_slice_contrast", "near_duplicate_of"),
)
CELL_COLUMNS = (
    *("cell_id", "image_id", "class", "split", "y", "x", "sigma", "row", "touches", "simulated"),
)

# Only these numbers may be absent; a class called NA, or an image called 007, stays a text.
_OPTIONAL_NUMBERS = ("pixel_size_um", "fourth_slice_contrast", "y", "x", "sigma")
_TEXTS = (
    *("image_id", "cell_id", "path", "class", "split", "group", "sha256", "acquired_at"),
    *("source", "channel_names", "objective", "near_duplicate_of"),
)


def read_images(prepared_dir: str | Path) -> pd.DataFrame:
    """Read ``images.csv`` and check it.

    Parameters
    ----------
    prepared_dir : path
        Folder that `prepare.prepare_images` wrote.

    Returns
    -------
    DataFrame
        One row an image, columns `IMAGE_COLUMNS`; texts are never NaN.

    Raises
    ------
    FileNotFoundError
        If the table or an image it names is missing.
    ValueError
        If columns are missing, an image_id occurs twice, or a split is unknown.
    """
    folder = from_root(prepared_dir)
    images = _read_table(folder / "images.csv", IMAGE_COLUMNS, "image_id", made_by="01")
    missing = [path for path in images["path"] if not (folder / path).exists()]
    if missing:
        raise FileNotFoundError(
            f"{shown_path(folder / 'images.csv')} names {len(missing)} missing images, first "
            f"{missing[0]}. Run notebook 01 again; it makes what is missing."
        )
    return images


def read_rejected(prepared_dir: str | Path) -> pd.DataFrame:
    """Read ``rejected.csv``: the columns ``source`` and ``reason`` of each refused file."""
    return pd.read_csv(from_root(prepared_dir) / "rejected.csv", dtype=str)


def read_cells(cells_dir: str | Path) -> pd.DataFrame:
    """Read ``cells.csv`` and check it, also against ``images.csv`` in the folder above.

    Parameters
    ----------
    cells_dir : path
        Folder that `cells.extract_cells` or `ready_patches.import_patches` wrote.

    Returns
    -------
    DataFrame
        One row a cell, columns at least `CELL_COLUMNS`; texts are never NaN.

    Raises
    ------
    FileNotFoundError
        If the table is missing.
    ValueError
        If columns are missing, a cell_id or row of ``patches.npy`` occurs twice, a split is
        unknown, or the split or class of a cell is not its image's.
    """
    folder = from_root(cells_dir)
    path = folder / "cells.csv"
    cells = _read_table(path, CELL_COLUMNS, "cell_id", made_by="02")
    _refuse_repeats(cells, "row", path)
    for column in ("split", "class"):
        counts = cells.groupby("image_id")[column].nunique()
        if (counts > 1).any():
            raise ValueError(
                f"{shown_path(path)}: cells of image {counts.idxmax()} have more than one "
                f"{column}, so the table leaks. Make it again with notebook 02."
            )
    if (folder.parent / "images.csv").exists():
        images = read_images(folder.parent).set_index("image_id")
        of_cell = cells.drop_duplicates("image_id").set_index("image_id")
        shared = images.reindex(of_cell.index)
        differing = (shared[["split", "class"]] != of_cell[["split", "class"]]).any(axis=1)
        if differing.any():
            raise ValueError(
                f"{shown_path(path)}: image {differing.idxmax()} has another split or class "
                "there than in images.csv, or is not in it. Run notebook 02 again."
            )
    return cells


def _read_table(path: Path, columns: Sequence[str], key: str, made_by: str) -> pd.DataFrame:
    if not path.exists():
        raise FileNotFoundError(f"{shown_path(path)} is missing. Run notebook {made_by} first.")
    header = pd.read_csv(path, nrows=0).columns
    absent = [column for column in columns if column not in header]
    if absent:
        raise ValueError(
            f"{shown_path(path)} lacks the columns {', '.join(absent)}. "
            f"Make it again with notebook {made_by}."
        )
    table = pd.read_csv(
        path,
        dtype={column: str for column in header if column in _TEXTS},
        keep_default_na=False,
        na_values={column: [""] for column in header if column in _OPTIONAL_NUMBERS},
    )
    _refuse_repeats(table, key, path)
    unknown = sorted(set(table["split"]) - set(SUBSETS))
    if unknown:
        raise ValueError(
            f"{shown_path(path)} has the split {unknown[0]!r}, but {', '.join(SUBSETS)} "
            f"were expected. Make it again with notebook {made_by}."
        )
    return table


def _refuse_repeats(table: pd.DataFrame, column: str, path: Path) -> None:
    repeated = table.loc[table[column].duplicated(), column]
    if len(repeated):
        raise ValueError(
            f"{shown_path(path)}: {column} {repeated.iloc[0]} occurs more than once. "
            "Make the table again."
        )


def near_duplicates(images: pd.DataFrame) -> pd.DataFrame:
    """List the images that look like another one, beside that one.

    Returns
    -------
    DataFrame
        Columns ``image_id``, ``near_duplicate_of``, and of both ``class`` and ``split``; a
        pair in two classes, or (where the split came with the data) in two subsets, deserves
        a look.
    """
    looks = images.loc[images["near_duplicate_of"] != "", ["image_id", "near_duplicate_of"]]
    labels = images.set_index("image_id")[["class", "split"]]
    others = labels.add_suffix("_of_other")
    return looks.join(labels, on="image_id").join(others, on="near_duplicate_of")


def count_by_class(images: pd.DataFrame, by: str) -> pd.DataFrame:
    """Count images by class (rows, the paper's order) and by another column (columns).

    Subsets keep their order; other values are sorted.
    """
    counts = pd.crosstab(images["class"], images[by])
    columns = [subset for subset in SUBSETS if subset in counts] if by == "split" else [*counts]
    return counts.loc[reference.class_order(counts.index), columns]


def compare_counts(images: pd.DataFrame) -> pd.DataFrame:
    """Count images by class and set the paper's counts beside them.

    Returns
    -------
    DataFrame
        Index ``class`` (and ``total``), columns ``images``, ``paper`` and ``difference``;
        the last two are absent (NA) for classes that the paper does not have.
    """
    counts = images["class"].value_counts().rename("images").to_frame()
    paper = reference.counts()["images"].rename("paper")
    if counts.index.isin(paper.index).any():
        counts = counts.join(paper, how="outer")
    else:
        counts["paper"] = pd.NA
    table = counts.loc[reference.class_order(counts.index)]
    table = table.astype("Int64").fillna({"images": 0})
    table.loc["total"] = table.sum(min_count=1)
    return table.assign(difference=table["images"] - table["paper"]).rename_axis("class")
