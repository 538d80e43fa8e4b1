"""A folder of ready images of single cells → ``cells.csv`` and ``patches.npy``.

This is where released patches enter the flow: cells that somebody else has cut out.
"""

import json
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import pandas as pd
from joblib import cpu_count
from numpy.typing import NDArray
from tqdm.contrib.concurrent import thread_map

from hsc_utils import files, manifest, preparation
from hsc_utils.detection.cells import check_side, close_cells, fingerprint, finished_cells
from hsc_utils.detection.checks import check, check_choice, check_numbers
from hsc_utils.files import from_root, no_bar, shown_path

_ROOMS = (
    "detection.ready_patches",
    "manifest",
    "preparation.acquisition",
    "preparation.formats",
    "preparation.sources",
)


def import_patches(
    patches_dir: str | Path,
    cells_dir: str | Path,
    side: int = 64,
    image_of_patch: str = r"(.+)__\d+",
    small_classes: str = "error",
    seed: int = 0,
    slices: Sequence[int | str] = (),
    bit_depth: int | None = None,
    to_8_bit: str = "bit_depth",
    *,
    class_names: Sequence[str] = (),
    fractions: Sequence[float] = (0.6, 0.2, 0.2),
    dataset: str = "",
    group: str = "",
) -> pd.DataFrame:
    """Take ready images of cells; return ``cells.csv``, without y, x and sigma.

    Parameters
    ----------
    patches_dir : path
        ``<class>/**/*.png`` (or tif, oir): one cell per image, of any size, read by the rules
        for acquisitions; grayscale fills all channels. ``<split>/<class>/…`` keeps its split.
    cells_dir : path
        Folder written, as by `extract_cells`, but without ``detection.json``, and with
        ``rejected.csv`` of the files that cannot be used.
    side : int
        Side in px to which every image, mirrored to a square, is resized.
    image_of_patch : str
        Regular expression whose first group is, in a file's name without suffix, the name of
        the image that the cell was cut from, as `export_png` gives it by default. Cells of one
        image share a subset; a patch whose name it does not match is an image of its own.
    small_classes, seed, fractions, slices, bit_depth, to_8_bit
        As for `manifest.split_images`, `preparation.read_acquisition` and `compose_rgb`.
    class_names : sequence of str
        Classes to use, see `preparation.list_sources`.
    dataset : str
        Name of the data set, recorded for the notebooks that follow.
    group : str
        A folder level, such as ``folder2``, whose names the column ``group`` holds: days, slides
        or animals. Empty where there is none.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or no image in it.
    ValueError
        If the study has images of its own, a patch or image lies under two classes or subsets,
        patches differ in bit depth, or a class is refused as a whole or too small to be split.
    """
    check_side(side)
    check_choice("small_classes", small_classes, ("error", "train"))
    check_numbers(whole=["seed"], seed=seed)
    try:
        groups = re.compile(image_of_patch).groups
    except (re.error, TypeError):
        groups = 0
    wanted = "a regular expression with a group in parentheses was expected"
    check(groups > 0, "image_of_patch", image_of_patch, wanted)
    started = time.perf_counter()
    source, target = from_root(patches_dir), from_root(cells_dir)
    if (target.parent / "prepared" / "images.csv").exists():
        shown = shown_path(target.parent)
        raise ValueError(f"{shown} holds prepared images. Give ready cells a study of their own.")
    join = "files" in slices
    listed = preparation.list_sources(source, class_names, join=join, parameter="ready_cells_dir")
    usable = listed[listed["reason"] == ""].drop(columns="reason")
    reading = {"slices": list(slices), "bit_depth": bit_depth, "to_8_bit": to_8_bit}
    parameters = {"patches_dir": shown_path(source), "side": int(side), "seed": int(seed)}
    parameters |= {"image_of_patch": image_of_patch, "small_classes": small_classes, **reading}
    parameters |= {"class_names": list(class_names), "fractions": list(fractions)}
    parameters["group"] = group
    parameters["dataset"] = dataset or f"ready cells in {shown_path(source)}"
    decisive = listed[["source", "class", "split", "reason"]]
    # the cells may lie below the patches
    tree = sorted(p for p in preparation.files_below(source) if not p.is_relative_to(target))
    key = fingerprint(decisive, tree, parameters, _ROOMS)
    cells = finished_cells(target, None, key)
    if cells is not None:
        if said := json.loads((target / "provenance.json").read_text())["fallbacks"]:
            print(*said)
        return cells
    target.mkdir(parents=True, exist_ok=True)
    with files.atomic_path(target / "patches.npy") as temporary:
        patches = files.reserved_array(temporary, (len(usable), side, side, 3))
        read = _read_into(patches, usable, source, **reading)
        patches.flush()
        good = read[read["reason"] == ""]
        copies = preparation.copies(good)
        tables = [listed, read, preparation.refused_copies(read, copies)]
        rejected = pd.concat([table[["source", "reason"]] for table in tables])
        rejected = rejected[rejected["reason"] != ""].sort_values("source")
        _check_classes(listed, read, source)
        if bit_depth is None and to_8_bit == "bit_depth":
            _check_depths(good)
        how = {"fractions": fractions, "seed": seed, "small_classes": small_classes}
        good = good.assign(group=preparation.folder_groups(good, group) if group else "")
        cells = _table(good[copies == ""], image_of_patch, **how)
        assert len(cells) + len(rejected) == len(listed), "a file ended in no table, or in two"
        # until all files fit together again, they are no finished result
        (target / "provenance.json").unlink(missing_ok=True)
    files.write_csv(target / "rejected.csv", rejected)
    fallbacks = _cautions(good, cells, join)
    record = {"fallbacks": fallbacks, "dataset": parameters["dataset"]}
    close_cells(target, cells, None, started, parameters=parameters, key=key, **record)
    print(
        f"{len(listed)} files: {len(cells)} cells of {cells['image_id'].nunique()} images in "
        f"{cells['class'].nunique()} classes, {len(rejected)} refused.",
        *fallbacks,
    )
    return cells


def read_ready_patch(
    path: str | Path,
    side: int,
    slices: Sequence[int | str] = (),
    bit_depth: int | None = None,
    to_8_bit: str = "bit_depth",
) -> tuple[NDArray[np.uint8], preparation.Acquisition]:
    """Read one file that holds one cell, as `import_patches` does.

    Parameters
    ----------
    path, slices, bit_depth, to_8_bit
        As for `preparation.read_acquisition` and `compose_rgb`; a single slice fills all channels.
    side : int
        Side in px to which the image, mirrored to a square, is resized.

    Returns
    -------
    patch : uint8 (side, side, 3)
        RGB.
    acquisition : Acquisition
        What the file holds.

    Raises
    ------
    AcquisitionError
        If the file cannot be used.
    """
    one = preparation.read_acquisition(path, slices=slices, bit_depth=bit_depth)
    if len(one.slices) == 1 and not one.selected:
        one = replace(one, slices=np.repeat(one.slices, 3, axis=0))
    return _squared(preparation.compose_rgb(one, to_8_bit=to_8_bit), side), one


def _read_into(patches: NDArray, usable: pd.DataFrame, folder: Path, **how: object) -> pd.DataFrame:
    """Fill the array row by row; return what was read, or the reason why it cannot be used."""

    def read(row: int, name: str, others: Sequence[str]) -> dict:
        path = folder / name
        try:
            patches[row], one = read_ready_patch(path, patches.shape[1], **how)
        except preparation.AcquisitionError as error:
            return {"reason": str(error)}
        members = [path, *(path.with_name(other) for other in others)]
        return {
            "reason": "",
            "sha256": "".join(map(files.file_sha256, members)),
            "bit_depth": one.bit_depth,
            "brightest": int(one.slices.max()),
            "lossy": one.lossy,
            "simulated": one.simulated,
        }

    bar = {"desc": "cells", "leave": False, "disable": no_bar(), "max_workers": cpu_count()}
    ends = thread_map(read, range(len(usable)), usable["source"], usable["channels"], **bar)
    columns = ["reason", "sha256", "bit_depth", "brightest", "lossy", "simulated"]
    ends = pd.DataFrame(ends, usable.index, columns)
    return usable.join(ends).assign(row=np.arange(len(usable)))


def _check_classes(listed: pd.DataFrame, read: pd.DataFrame, source: Path) -> None:
    """Refuse a class that none of its files is left of, and a folder of which nothing is left."""
    kept = set(read.loc[read["reason"] == "", "class"])
    refused = pd.concat([listed, read]).query("reason != ''")
    lost = refused[~refused["class"].isin({"", *kept})] if kept else refused
    if len(lost):
        of_class = f" of class {' and '.join(sorted(set(lost['class'])))}" if kept else ""
        raise ValueError(
            f"All {len(lost)} patches{of_class} were refused, in {shown_path(source)} "
            f"(ready_cells_dir). The first: {lost['reason'].iloc[0]} Mend or remove them."
        )


def _check_depths(read: pd.DataFrame) -> None:
    """Refuse patches whose intensities cannot be compared, or that seem to use few of 16 bits."""
    first = read.drop_duplicates("bit_depth")
    if len(first) > 1:
        found = first["bit_depth"].map("{:g} bits in ".format) + first["source"]
        raise ValueError(
            f"The patches have different bit depths ({', '.join(found)}), so their brightness "
            "cannot be compared. Convert them, or say to_8_bit='own_depth' if each fills its own."
        )
    brightest = int(read["brightest"].max())
    if first["bit_depth"].iloc[0] == 16 and brightest < 2**14:
        raise ValueError(
            f"The patches have 16 bits, but their brightest pixel is {brightest}. Say with "
            f"bit_depth how many bits the camera gave, such as {max(9, brightest.bit_length())}."
        )


def _cautions(read: pd.DataFrame, cells: pd.DataFrame, join: bool) -> list[str]:
    """Say what a reader of the results should know of the patches."""
    own = int((cells["image_id"] == cells["cell_id"]).sum())
    apart = read[read["field"] != ""]
    lossy = int(read["lossy"].sum())
    said = {
        f"{own} patches count as images of their own: their names tell no image.": own,
        f"{len(apart)} files differ from others in the channel alone, such as "
        f"{apart['source'].min()}: each counts as a cell, of the same image. To join them, let "
        "slices (in ready_cells) be ['files'].": len(apart) and not join,
        f"{lossy} patches are JPEG, which loses detail.": lossy,
    }
    return [sentence for sentence, holds in said.items() if holds]


def _squared(rgb: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Mirror an image to a square around its middle, so that shapes are kept, and resize it."""
    height, width = rgb.shape[:2]
    longest = max(height, width)
    top, left = (longest - height) // 2, (longest - width) // 2
    margins = top, longest - height - top, left, longest - width - left
    square = cv2.copyMakeBorder(rgb, *margins, cv2.BORDER_REFLECT)
    how = cv2.INTER_AREA if longest > side else cv2.INTER_LINEAR
    return cv2.resize(square, (side, side), interpolation=how)


def _table(read: pd.DataFrame, image_of_patch: str, **division: object) -> pd.DataFrame:
    """Return ``cells.csv`` of the patches kept."""
    cells = read.rename(columns={"image_id": "cell_id"})
    found = [re.fullmatch(image_of_patch, PurePosixPath(name).stem) for name in cells["source"]]
    # channels in files of their own stay together
    fields = cells["field"].where(cells["field"] != "", cells["cell_id"])
    known = zip(found, cells["class"], fields, strict=True)
    cells["image_id"] = [f"{name}__{m[1]}" if m and m[1] else own for m, name, own in known]
    _refuse_divided(
        cells, ["class", "split"], "subset", "Move them together, or correct image_of_patch"
    )
    _refuse_divided(cells, ["group"], "group", "Correct group, or image_of_patch")
    if not cells["split"].all():
        images = manifest.split_images(cells.drop_duplicates("image_id"), **division)
        cells["split"] = cells["image_id"].map(images.set_index("image_id")["split"])
    cells = cells.assign(y=np.nan, x=np.nan, sigma=np.nan, touches=False)
    return (
        cells[[*manifest.CELL_COLUMNS, "sha256"]].astype({"simulated": bool}).reset_index(drop=True)
    )


def _refuse_divided(cells: pd.DataFrame, columns: list[str], word: str, hint: str) -> None:
    """Refuse patches of one image that differ in columns."""
    pairs = cells.drop_duplicates(["image_id", *columns])
    if (divided := pairs["image_id"].duplicated()).any():
        name = pairs.loc[divided, "image_id"].iloc[0]
        where = pairs.loc[pairs["image_id"] == name, "source"].head(3)
        raise ValueError(
            f"Patches of image {name} lie in more than one {word} ({', '.join(where)}). {hint} if "
            "they are of different images."
        )
