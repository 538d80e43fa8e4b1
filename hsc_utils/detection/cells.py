"""Cut square patches around the cells: ``cells.csv`` and ``patches.npy``.

Each image is worked on by itself and kept until all are done, so an interrupted run is
completed by the next one; then the patches are gathered into one memory-mapped array.
"""

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from tqdm.contrib.concurrent import thread_map

from hsc_utils import manifest, provenance
from hsc_utils.detection.blobs import DetectionSettings, detect_cells
from hsc_utils.files import (
    atomic_path,
    from_root,
    no_bar,
    read_rgb,
    reserved_array,
    shown_path,
    write_csv,
    write_rgb,
)

BORDERS = ("drop", "reflect")
_ROOMS = ("detection.contrast", "detection.blobs", "detection.fast_log", "detection.cells")


def cut_patches(
    rgb: NDArray[np.uint8], found: ArrayLike, side: int, border: str = "drop"
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Cut a square around each cell (y, x, sigma), whose pixel comes to lie at side // 2.

    Returned with the patches are y, x, sigma of the cells kept, and 1 where the centre of
    another cell lies in the patch, also of one that was dropped.
    """
    found = np.asarray(found, float).reshape(-1, 3)
    corners = np.rint(found[:, :2]).astype(int) - side // 2
    apart = np.abs(found[:, None, :2] - found[None, :, :2]).max(axis=2)
    np.fill_diagonal(apart, np.inf)
    touches = (apart < side / 2).any(axis=1)
    if border == "drop":
        limit = np.array(rgb.shape[:2]) - side
        inside = ((corners >= 0) & (corners <= limit)).all(axis=1)
        found, corners, touches = found[inside], corners[inside], touches[inside]
    pad = 0 if border == "drop" else side
    padded = cv2.copyMakeBorder(rgb, pad, pad, pad, pad, cv2.BORDER_REFLECT)
    patches = np.empty((len(found), side, side, 3), np.uint8)
    for patch, (y, x) in zip(patches, corners + pad, strict=True):
        patch[:] = padded[y : y + side, x : x + side]
    return np.column_stack([found, touches]), patches


def suggest_side(sigmas: ArrayLike) -> int:
    """Return the patch side in px that holds 99 of 100 cells with a quarter to spare.

    Parameters
    ----------
    sigmas : array_like, shape (N,)
        Of the cells, px. A cell's diameter is 2.83 sigma.

    Returns
    -------
    int
        A multiple of 8.
    """
    diameter = 2 * math.sqrt(2) * float(np.quantile(np.asarray(sigmas), 0.99))
    return 8 * math.ceil(1.25 * diameter / 8)


def extract_cells(
    prepared_dir: str | Path,
    cells_dir: str | Path,
    settings: DetectionSettings,
    side: int = 64,
    border: str = "drop",
    *,
    workers: int | None = None,
) -> pd.DataFrame:
    """Find the cells of every image and cut a patch around each.

    Parameters
    ----------
    prepared_dir : path
        Folder with ``images.csv``.
    cells_dir : path
        Folder written: ``detection.json``, ``cells.csv``, ``patches.npy`` (uint8, shape
        (N, side, side, 3)) and ``provenance.json``.
    settings : DetectionSettings
        How to find cells.
    side : int
        Side of a patch in px, one for the data set; patches are not resampled.
    border : {"drop", "reflect"}
        What to do with a cell whose patch would leave the image: leave it out, or mirror
        the image there.
    workers : int, optional
        Images worked on side by side; all processors by default.

    Returns
    -------
    DataFrame
        ``cells.csv``: one row a cell, with the class and the split of its image.

    Raises
    ------
    FileNotFoundError
        If ``images.csv`` or an image is missing.
    ValueError
        If a setting is impossible, or no cell is found in any image.
    """
    if border not in BORDERS:
        raise ValueError(f"border is {border!r}, but must be one of {', '.join(BORDERS)}.")
    if side < 8:
        raise ValueError(f"side is {side} px, but a patch needs at least 8.")
    started = time.perf_counter()
    source, target = from_root(prepared_dir), from_root(cells_dir)
    images = manifest.read_images(source)
    parameters = {"detection": asdict(settings), "side": side, "border": border}
    key = fingerprint(images, source, parameters, _ROOMS)
    if is_finished(target, key):
        return manifest.read_cells(target, source)
    # patches of single images, until all are done; of other settings they are of no use
    pieces = target / f".pieces-{key[:12]}"
    for outdated in target.glob(".pieces-*"):
        if outdated != pieces:
            shutil.rmtree(outdated)
    pieces.mkdir(parents=True, exist_ok=True)

    def piece(image_id: str, image_path: str) -> NDArray[np.float64]:
        path = pieces / f"{image_id}.npz"
        if not path.exists():
            rgb = read_rgb(source / image_path)
            found, patches = cut_patches(rgb, detect_cells(rgb, settings), side, border)
            with atomic_path(path) as temporary, temporary.open("wb") as stream:
                np.savez(stream, found=found, patches=patches)
        with np.load(path) as stored:
            return stored["found"]

    bar = {"desc": "cells", "leave": False, "disable": no_bar()}
    workers = workers or os.cpu_count()
    found = thread_map(piece, images["image_id"], images["path"], max_workers=workers, **bar)
    if not sum(map(len, found)):
        raise ValueError(
            f"No cell was found in any of the {len(images)} images of {shown_path(source)}. "
            "Lower threshold, or check min_sigma and max_sigma against the cells' size."
        )
    cells = _table(images, found)
    # until all files fit together again, they are no finished result
    (target / "provenance.json").unlink(missing_ok=True)
    chosen = target / "detection.json"
    if not chosen.exists() or DetectionSettings.read(chosen) != settings:
        settings.write(chosen, "hand")
    with atomic_path(target / "patches.npy") as temporary:
        patches = reserved_array(temporary, (len(cells), side, side, 3))
        for image_id, rows in cells.groupby("image_id", sort=False)["row"]:
            with np.load(pieces / f"{image_id}.npz") as stored:
                patches[rows.iloc[0] : rows.iloc[-1] + 1] = stored["patches"]
        patches.flush()
    inputs = [source / "images.csv"]
    close_cells(target, cells, source, started, parameters=parameters, key=key, inputs=inputs)
    shutil.rmtree(pieces)
    return cells


def export_png(cells_dir: str | Path) -> Path:
    """Write each patch as ``png/<split>/<class>/<cell_id>.png``, the tree the paper releases.

    Parameters
    ----------
    cells_dir : path
        Folder that `extract_cells` wrote.

    Returns
    -------
    Path
        The tree, within that folder.
    """
    folder = from_root(cells_dir)
    cells = manifest.read_cells(folder)
    patches = np.load(folder / "patches.npy", mmap_mode="r")

    def write(cell: dict) -> None:
        path = folder / "png" / cell["split"] / cell["class"] / f"{cell['cell_id']}.png"
        write_rgb(path, patches[cell["row"]])

    thread_map(write, cells.to_dict("records"), desc="PNG", leave=False, disable=no_bar())
    return folder / "png"


def _table(images: pd.DataFrame, found: Sequence[NDArray[np.float64]]) -> pd.DataFrame:
    """Return ``cells.csv`` of the cells found in each image, numbered by image."""
    counts = [len(of_image) for of_image in found]
    cells = images.loc[images.index.repeat(counts), ["image_id", "class", "split", "simulated"]]
    numbers = np.concatenate([np.arange(count) for count in counts])
    ids = [f"{name}__{k:04d}" for name, k in zip(cells["image_id"], numbers, strict=True)]
    y, x, sigma, touches = np.concatenate(found).T
    cells = cells.assign(cell_id=ids, y=y.round(2), x=x.round(2), sigma=sigma.round(3))
    cells = cells.assign(touches=touches.astype(bool), row=np.arange(len(cells)))
    of_image = images.set_index("image_id")["split"]
    assert (cells["split"] == of_image.loc[cells["image_id"]].to_numpy()).all()
    return cells[list(manifest.CELL_COLUMNS)].reset_index(drop=True)


def fingerprint(images: pd.DataFrame, folder: Path, parameters: dict, rooms: Sequence[str]) -> str:
    """Identify a result by what decides it: settings, the table, the files, and the code."""
    files = [(folder / path).stat() for path in images["path"]]
    content = [
        parameters,
        images[["image_id", "class", "split"]].to_numpy().tolist(),
        [(file.st_size, file.st_mtime_ns) for file in files],
        provenance.code_digest(*rooms),
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def is_finished(target: Path, key: str) -> bool:
    """Tell whether a folder holds the result with that fingerprint."""
    files = [target / name for name in ("provenance.json", "cells.csv", "patches.npy")]
    return all(f.exists() for f in files) and json.loads(files[0].read_text()).get("key") == key


def close_cells(
    target: Path, cells: pd.DataFrame, prepared: Path | None, started: float, **record: object
) -> None:
    """Write ``cells.csv``, check it, and close the folder with its provenance."""
    write_csv(target / "cells.csv", cells)
    manifest.read_cells(target, prepared)
    record |= {"simulated": bool(cells["simulated"].any()), "cells": len(cells)}
    provenance.write_provenance(target, seconds=time.perf_counter() - started, **record)
