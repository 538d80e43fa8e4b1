"""A folder of ready images of single cells → ``cells.csv`` and ``patches.npy``.

This is where released patches enter the flow: cells that somebody else has cut out.
"""

import re
import time
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm.contrib.concurrent import thread_map

from hsc_utils import files, manifest, preparation
from hsc_utils.detection.cells import close_cells, fingerprint, is_finished
from hsc_utils.files import from_root, no_bar, read_rgb, shown_path

_ROOMS = ("detection.ready_patches", "manifest")


def import_patches(
    patches_dir: str | Path,
    cells_dir: str | Path,
    side: int = 64,
    image_of_patch: str = r"(.+)__\d+",
    small_classes: str = "error",
    seed: int = 0,
) -> pd.DataFrame:
    """Take ready images of single cells instead of finding cells in images.

    Parameters
    ----------
    patches_dir : path
        ``<class>/**/*.png`` (or tif): one cell an image, of any size. A tree of the form
        ``<split>/<class>/…`` keeps its split.
    cells_dir : path
        Folder written, as by `extract_cells`, but without ``detection.json``; files that
        cannot be used are listed in its ``rejected.csv``.
    side : int
        Side in px to which every image is resized; sides that differ are padded to a
        square by mirroring first, so that shapes are kept.
    image_of_patch : str
        Regular expression whose first group is, in a file's name without suffix, the name
        of the image that the cell was cut from. Cells of one image share a subset. A patch
        whose name it does not match counts as an image of its own. The default reads the
        names that `export_png` gives.
    small_classes, seed
        As for `manifest.split_images`.

    Returns
    -------
    DataFrame
        ``cells.csv``, without y, x and sigma.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or no image in it.
    ValueError
        If the study has prepared images of its own, the same patch lies under two classes
        or in two given subsets, patches of one image lie in two given subsets, a class is
        too small to be split, or all files are refused.
    """
    started = time.perf_counter()
    source, target = from_root(patches_dir), from_root(cells_dir)
    if (target.parent / "prepared" / "images.csv").exists():
        raise ValueError(
            f"{shown_path(target.parent)} holds prepared images, whose cells the ready ones are "
            "not. Give ready cells a study of their own."
        )
    listed = preparation.list_sources(source)
    parameters = {"patches_dir": shown_path(source), "side": side, "seed": seed}
    parameters |= {"image_of_patch": image_of_patch, "small_classes": small_classes}
    usable = listed[listed["reason"] == ""]
    key = fingerprint(usable.rename(columns={"source": "path"}), source, parameters, _ROOMS)
    if is_finished(target, key):
        return manifest.read_cells(target)
    target.mkdir(parents=True, exist_ok=True)
    with files.atomic_path(target / "patches.npy") as temporary:
        patches = files.reserved_array(temporary, (len(usable), side, side, 3))
        ends = _read_into(patches, usable["source"], source)
        patches.flush()
        usable = usable.assign(sha256=[sha for sha, _ in ends], reason=[why for _, why in ends])
        refused = pd.concat([listed, usable])[["source", "reason"]].query("reason != ''")
        if len(refused) == len(listed):
            raise ValueError(
                f"All {len(listed)} patches were refused. The first: {refused['reason'].iloc[0]}"
            )
        cells, copies = _table(usable, image_of_patch, seed, small_classes)
    rejected = pd.concat([refused, copies]).sort_values("source")
    files.write_csv(target / "rejected.csv", rejected)
    own = int((cells["image_id"] == cells["cell_id"]).sum())
    said = f"{own} patches count as images of their own: their names tell no image"
    record = {"fallbacks": [said] * bool(own), "dataset": f"ready cells in {shown_path(source)}"}
    close_cells(target, cells, None, started, parameters=parameters, key=key, **record)
    print(
        f"{len(listed)} files: {len(cells)} cells of {cells['image_id'].nunique()} images in "
        f"{cells['class'].nunique()} classes, {len(rejected)} refused.",
        *record["fallbacks"],
    )
    return cells


def _read_into(patches: NDArray, sources: pd.Series, folder: Path) -> list[tuple[str, str]]:
    """Fill the array row by row; return hash and reason (if it cannot be used) of each file."""

    def read(row: int, name: str) -> tuple[str, str]:
        try:
            patches[row] = _squared(read_rgb(folder / name), patches.shape[1])
        except ValueError as error:
            return "", str(error)
        return files.file_sha256(folder / name), ""

    bar = {"desc": "cells", "leave": False, "disable": no_bar()}
    return thread_map(read, range(len(sources)), sources, **bar)


def _squared(rgb: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Mirror an image to a square around its middle, and resize it to a side in px."""
    height, width = rgb.shape[:2]
    longest = max(height, width)
    top, left = (longest - height) // 2, (longest - width) // 2
    margins = top, longest - height - top, left, longest - width - left
    square = cv2.copyMakeBorder(rgb, *margins, cv2.BORDER_REFLECT)
    how = cv2.INTER_AREA if longest > side else cv2.INTER_LINEAR
    return cv2.resize(square, (side, side), interpolation=how)


def _table(
    usable: pd.DataFrame, image_of_patch: str, seed: int, small_classes: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return ``cells.csv``, and the copies that are left out of it."""
    usable = usable.assign(row=np.arange(len(usable)))
    read = usable[usable["reason"] == ""]
    copies = preparation.copies(read)
    cells = read[copies == ""].rename(columns={"image_id": "cell_id"})
    names = cells["source"].map(lambda source: _image_name(source, image_of_patch))
    cells = cells.assign(image_id=names.where(names != "", cells["cell_id"]), simulated=False)
    images = cells.drop_duplicates(["image_id", "class", "split"])
    if (leak := images["image_id"].duplicated()).any():
        name = images.loc[leak, "image_id"].iloc[0]
        where = cells.loc[cells["image_id"] == name].drop_duplicates(["class", "split"])["source"]
        raise ValueError(
            f"Patches of image {name} lie in more than one subset or class "
            f"({', '.join(where.head(3))}), so the subsets leak. Move the patches of an image "
            "together, or correct image_of_patch if these are different images."
        )
    if not cells["split"].all():
        images = manifest.split_images(images, seed=seed, small_classes=small_classes)
        cells["split"] = cells["image_id"].map(images.set_index("image_id")["split"])
    cells = cells.assign(y=np.nan, x=np.nan, sigma=np.nan, touches=False)
    cells = cells[list(manifest.CELL_COLUMNS)].reset_index(drop=True)
    return cells, preparation.refused_copies(read, copies)


def _image_name(source: str, image_of_patch: str) -> str:
    """Return the image that a patch was cut from, without its subset; empty if unknown."""
    path = PurePosixPath(source)
    found = re.fullmatch(image_of_patch, path.stem)
    if not found:
        return ""
    _, class_folder = preparation.split_and_class(path.parent.parts)
    return f"{class_folder}__{found[1]}"
