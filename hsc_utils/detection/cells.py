"""Cut square patches around the cells: ``cells.csv`` and ``patches.npy``.

Each image is worked on by itself and kept until all are done, so an interrupted run is
completed by the next one; then the patches are gathered into one memory-mapped array.
"""

import hashlib
import json
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from joblib import cpu_count
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm.contrib.concurrent import thread_map

from hsc_utils import files, manifest, provenance
from hsc_utils.detection import blobs
from hsc_utils.detection.blobs import DetectionSettings, detect_cells
from hsc_utils.detection.checks import as_array, check_choice, check_numbers
from hsc_utils.files import from_root, no_bar, shown_path
from hsc_utils.study import DamagedFileError

_ROOMS = ("detection.contrast", "detection.blobs", "detection.fast_log", "detection.cells")


def cut_patches(
    rgb: NDArray[np.uint8], found: ArrayLike, side: int, border: str = "drop"
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Cut a square around each cell (y, x, sigma), whose pixel comes to lie at side // 2.

    With the patches come y, x, sigma of the cells kept, and 1 where another's centre lies within.
    """
    found = np.asarray(found, float).reshape(-1, 3)
    corners = np.rint(found[:, :2]).astype(int) - side // 2
    apart = np.abs(found[:, None, :2] - found[None, :, :2]).max(axis=2)
    np.fill_diagonal(apart, np.inf)
    touches = (apart < side / 2).any(axis=1)
    pad = side if border == "reflect" else 0
    if border == "drop":
        limit = np.array(rgb.shape[:2]) - side
        inside = ((corners >= 0) & (corners <= limit)).all(axis=1)
        found, corners, touches = found[inside], corners[inside], touches[inside]
    padded = cv2.copyMakeBorder(rgb, pad, pad, pad, pad, cv2.BORDER_REFLECT)
    patches = np.empty((len(found), side, side, 3), np.uint8)
    for patch, (y, x) in zip(patches, corners + pad, strict=True):
        patch[:] = padded[y : y + side, x : x + side]
    return np.column_stack([found, touches]), patches


def suggest_side(sigmas: ArrayLike) -> int:
    """Return the patch side, a multiple of 8 px, of which 99 of 100 cells fill four fifths.

    A cell's diameter is 2.83 sigma. A ValueError refuses sigmas (px) that are unknown.
    """
    sigmas = as_array(sigmas)
    if not sigmas.size or sigmas.dtype.kind not in "uif" or not (sigmas > 0).all():
        raise ValueError("sigmas are none, or not all above 0: those of ready cells are unknown.")
    diameter = 2 * math.sqrt(2) * float(np.quantile(sigmas, 0.99))
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
    """Find the cells of every image and cut a patch around each; return ``cells.csv``.

    A cell has the class, split and group of its image. Images in which no cell was found are
    counted and named, in print and in the record.

    Parameters
    ----------
    prepared_dir, cells_dir
        Folder with ``images.csv``, and the one written: ``detection.json``, ``cells.csv``,
        ``patches.npy`` (uint8, shape (N, side, side, 3)) and ``provenance.json``. Damaged ones
        are set aside and made again.
    settings, workers
        How to find cells, and in how many images side by side; by default all processors work.
    side : int
        Side of a patch in px, one for the data set; patches are not resampled.
    border : {"drop", "reflect"}
        Leave out a cell whose patch would leave the image, or mirror the image there.

    Raises
    ------
    FileNotFoundError, ValueError
        If ``images.csv`` or an image is missing; if no cell is found in any image of a class.
    """
    check_choice("border", border, ("drop", "reflect"))
    check_side(side)
    blobs.check_settings(settings)
    started = time.perf_counter()
    source, target = from_root(prepared_dir), from_root(cells_dir)
    images = manifest.read_images(source)
    if side > (largest := images[["height", "width"]].min(axis=1).max()):
        raise ValueError(
            f"side is {side} px, but no image of {shown_path(source)} is larger than {largest} px."
        )
    parameters = {"detection": asdict(settings), "side": int(side), "border": border}
    decisive = images[["image_id", "class", "split", "group"]]
    key = fingerprint(decisive, [source / p for p in images["path"]], parameters, _ROOMS)
    cells = finished_cells(target, source, key)
    if cells is not None:
        _say_what_is_missing(images, cells, source)
        return cells
    # patches of single images, until all are done; of other settings they are of no use
    pieces = target / f".pieces-{key[:12]}"
    for outdated in set(target.glob(".pieces-*")) - {pieces}:
        shutil.rmtree(outdated)
    pieces.mkdir(parents=True, exist_ok=True)

    def piece(image_id: str, image_path: str) -> NDArray[np.float64]:
        path = pieces / f"{image_id}.npz"
        if path.exists():
            try:
                return _stored_piece(path)[0]
            except Exception:  # damaged ones raise nearly everything in the libraries
                print(f"{shown_path(path)} is damaged and made again.")
        rgb = files.read_rgb(source / image_path)
        found, patches = cut_patches(rgb, detect_cells(rgb, settings), side, border)
        with files.atomic_path(path) as temporary, temporary.open("wb") as stream:
            np.savez(stream, found=found, patches=patches)
        return found

    bar = {"desc": "cells", "leave": False, "disable": no_bar()}
    workers = workers or cpu_count()
    found = thread_map(piece, images["image_id"], images["path"], max_workers=workers, **bar)
    cells = _table(images, found)
    said, empty = _say_what_is_missing(images, cells, source)
    # until all files fit together again, they are no finished result
    (target / "provenance.json").unlink(missing_ok=True)
    blobs.settings_in_use(target / "detection.json", settings, "hand")
    with files.atomic_path(target / "patches.npy") as temporary:
        patches = files.reserved_array(temporary, (len(cells), side, side, 3))
        for image_id, rows in cells.groupby("image_id", sort=False)["row"]:
            patches[rows.iloc[0] : rows.iloc[-1] + 1] = _stored_piece(pieces / f"{image_id}.npz")[1]
        patches.flush()
    record = {"inputs": [source / "images.csv"], "fallbacks": said, "images_without_cells": empty}
    close_cells(target, cells, source, started, parameters=parameters, key=key, **record)
    shutil.rmtree(pieces)
    return cells


def _stored_piece(path: Path) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Return cells and patches of one image as an interrupted run left them."""
    with np.load(path) as stored:
        return stored["found"], stored["patches"]


def _say_what_is_missing(
    images: pd.DataFrame, cells: pd.DataFrame, source: Path
) -> tuple[list[str], list[str]]:
    """Refuse a class without cells; print and return sentences on what has none, and the images."""
    counts = cells["image_id"].value_counts().reindex(images["image_id"], fill_value=0)
    counted = images.assign(cells=counts.to_numpy())
    of_class = counted.groupby("class")["cells"].sum()
    if lost := of_class.index[of_class == 0].tolist():
        raise ValueError(
            f"No cell was found in any of the {images['class'].isin(lost).sum()} images of class "
            f"{' or '.join(lost)} in {shown_path(source)}. Lower threshold, check min_sigma and "
            "max_sigma, keep cells at the border with border='reflect', or leave the class out "
            "with class_names in notebook 01."
        )
    empty = counted.loc[counted["cells"] == 0, "image_id"].tolist()
    if not empty:
        return [], []
    named = ", ".join(empty[:10]) + ", …" * (len(empty) > 10)
    said = [f"No cell was found in {len(empty)} of {len(images)} images: {named}."]
    of_subset = counted.groupby(["class", "split"])["cells"].sum()
    for name, subset in of_subset.index[of_subset == 0]:
        said.append(f"Class {name} has no cell in the {subset} subset.")
    print("Caution:", *said)
    return said, empty


def read_patches(cells_dir: str | Path, cells: pd.DataFrame) -> NDArray[np.uint8]:
    """Open ``patches.npy``, uint8 (N, side, side, 3), to be read from the disk where it is used.

    The column ``row`` of `cells`, the folder's ``cells.csv``, is its first index.

    Raises
    ------
    FileNotFoundError, DamagedFileError
        If there is no such file, or if it is empty, cut short or holds something else.
    """
    path = from_root(cells_dir) / "patches.npy"
    if not path.exists():
        raise FileNotFoundError(f"{shown_path(path)} is missing. Run notebook 02 first.")
    count = cells["row"].max() + 1
    try:
        patches = np.load(path, mmap_mode="r")
        found = f"holds {patches.dtype} of shape {patches.shape}"
        if patches.dtype == np.uint8 and patches.ndim == 4 and len(patches) >= count:
            return patches
    except (ValueError, EOFError, OSError) as error:
        found = f"is empty, cut short or damaged ({type(error).__name__})"
    raise DamagedFileError(
        f"{shown_path(path)} {found}, but a patch for each of {count} cells was expected. Run "
        "notebook 02 again."
    )


def export_png(cells_dir: str | Path) -> Path:
    """Write each patch as ``png/<split>/<class>/<cell_id>.png`` into the cells' folder.

    Returned is this tree, as the paper releases it; what is no cell any more is deleted from it.
    """
    folder = from_root(cells_dir)
    cells = manifest.read_cells(folder)
    patches = read_patches(folder, cells)
    tree = folder / "png"

    def write(cell: dict) -> Path:
        # a slash in a class's name, such as CD34+/CD38-, is no folder
        of_class = cell["class"].replace("%", "%25").replace("/", "%2F")
        path = tree / cell["split"] / of_class / f"{cell['cell_id']}.png"
        mark = PngInfo()
        if cell["simulated"]:  # as the reader of images knows it again
            mark.add_text("Description", "SIMULATED by hsc_utils.simulation")
        with files.atomic_path(path) as temporary:
            Image.fromarray(patches[cell["row"]]).save(temporary, "PNG", pnginfo=mark)
        return path

    bar = {"desc": "PNG", "leave": False, "disable": no_bar()}
    written = thread_map(write, cells.to_dict("records"), max_workers=cpu_count(), **bar)
    for outdated in set(tree.rglob("*__[0-9]*.png")) - set(written):
        outdated.unlink()
    return tree


def _table(images: pd.DataFrame, found: Sequence[NDArray[np.float64]]) -> pd.DataFrame:
    """Return ``cells.csv`` of the cells found in each image, numbered by image."""
    counts = [len(of_image) for of_image in found]
    cells = images.loc[images.index.repeat(counts)].reset_index(drop=True)
    of_image = zip(cells["image_id"], cells.groupby("image_id").cumcount(), strict=True)
    ids = [f"{name}__{k:04d}" for name, k in of_image]
    y, x, sigma, touches = np.concatenate(found).T
    cells = cells.assign(cell_id=ids, y=y.round(2), x=x.round(2), sigma=sigma.round(3))
    cells = cells.assign(touches=touches.astype(bool), row=np.arange(len(cells)))
    return cells[list(manifest.CELL_COLUMNS)]


def fingerprint(
    table: pd.DataFrame, paths: Sequence[Path], parameters: dict, rooms: Sequence[str]
) -> str:
    """Identify a result by what decides it: settings, the table, the files, and the code."""
    states = [path.stat() for path in paths if path.exists()]
    of_files = [(state.st_size, state.st_mtime_ns) for state in states]
    content = [parameters, table.to_numpy().tolist(), of_files, provenance.code_digest(*rooms)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def check_side(side: int) -> None:
    """Refuse a side that no patch can have."""
    check_numbers(whole=["side"], side=side)
    if not 8 <= side <= 4096:
        raise ValueError(f"side is {side} px, but a patch needs at least 8 and at most 4096.")


def finished_cells(target: Path, prepared: Path | None, key: str) -> pd.DataFrame | None:
    """Return ``cells.csv`` of the result with that fingerprint; set damaged files of it aside."""
    file = target / "provenance.json"
    try:
        record = dict(json.loads(file.read_text()))
        if record.get("key") != key:
            return None
        file = target / "cells.csv"
        cells = manifest.read_cells(target, prepared)
        file = target / "patches.npy"
        read_patches(target, cells)
    except FileNotFoundError:
        return None
    except (TypeError, ValueError) as error:
        own = f"{shown_path(file)} is empty, cut short or damaged ({type(error).__name__})."
        files.set_aside(file, str(error) if shown_path(file) in str(error) else own)
        return None
    if len(cells) != (count := record.get("cells")):
        print(
            f"Caution: {shown_path(target / 'cells.csv')} has {len(cells)} rows, but {count} cells "
            "were cut out. It is used as it is; delete it to have it made again."
        )
    return cells


def close_cells(
    target: Path, cells: pd.DataFrame, prepared: Path | None, started: float, **record: object
) -> None:
    """Write ``cells.csv``, check it, and close the folder with its provenance."""
    files.write_csv(target / "cells.csv", cells)
    manifest.read_cells(target, prepared)
    record |= {"simulated": bool(cells["simulated"].any()), "cells": len(cells)}
    provenance.write_provenance(target, seconds=time.perf_counter() - started, **record)
