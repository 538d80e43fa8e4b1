"""Other views of the same samples: cells painted out, cells alone, cells moved to other places."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
from filelock import FileLock
from joblib import cpu_count
from numpy.typing import ArrayLike, NDArray
from tqdm.contrib.concurrent import thread_map

from hsc_utils import detection, explanation, manifest, training
from hsc_utils.files import (
    atomic_path,
    from_root,
    no_bar,
    read_rgb,
    reserved_array,
    shown_path,
    write_csv,
    write_json,
)
from hsc_utils.provenance import code_digest
from hsc_utils.shortcuts.painting import distance_from, filled, low_frequencies, soft_outline
from hsc_utils.study import Study

AS_IT_IS, ONLY_CELL, SURROUNDINGS = "as it is", "only the cell", "only the surroundings"
OWN_BACKGROUND, OTHER_BACKGROUND = "on its class's background", "on another class's background"

# Around a cell lie its fringes and blurred light: in the simulated fields nothing of them is left
# beyond this many radii (8 of 15 px). Where cells fill the pictures, less has to do.
_MARGINS = (0.6, 0.3, 0.15, 0.0)
_MOST_COVERED = 0.7  # share of a picture that holes may cover in all but one of twenty
_SURVEYED = 50  # pictures that the margin is chosen from
_SMOOTHING = 0.8  # what counts as slow, in radii: sigma of a Gaussian
_AT_ONCE = 2048  # ready patches worked on at a time
_ROOMS = (
    *("shortcuts.views", "shortcuts.painting", "explanation.masks", "training.batches"),
    *("detection.blobs", "detection.contrast", "detection.fast_log"),
)


class Surroundings(NamedTuple):
    """What `write_surroundings` made; the large arrays are read from the disk where used.

    Attributes
    ----------
    patches : uint8, shape of ``patches.npy``
        Every patch as it would be without a cell in it; ``row`` of ``cells.csv`` is its index.
    images, only_cells, same_number : uint8 (N, size, size, 3), or None
        Whole images in the order of ``images.csv``: cells painted out; all else replaced by one
        background, the same for all; all cells painted out but `kept`, drawn at random.
        The latter two are black in images that no model is judged on.
    counts : DataFrame
        One row per image in that order: ``image_id``, ``cells``, ``judged`` (whether models are
        judged on it), ``too_few`` (whether it has fewer cells than ``same_number`` keeps).
        None where cells came as images of their own.
    places : DataFrame
        ``image_id``, y, x, sigma of the discs painted out where there are no masks, or None.
    cells : DataFrame
        ``cell_id``, ``image_id``, ``class``, ``split``, ``row`` of each cell, and ``usable``:
        False where a patch shows nothing but cells. Such a patch is black.
    common : uint8 (side, side, 3)
        The background of `ONLY_CELL`: the mean colour of all surroundings, with grain of one.
    radius_px, margin_px : float
        Typical radius of a cell; how far around cells the picture is replaced.
    kept : int
        Number of cells in each of ``same_number``, 0 where there are none: as many as three of
        four images judged have.
    """

    patches: NDArray[np.uint8]
    images: NDArray[np.uint8] | None
    only_cells: NDArray[np.uint8] | None
    same_number: NDArray[np.uint8] | None
    counts: pd.DataFrame | None
    places: pd.DataFrame | None
    cells: pd.DataFrame
    common: NDArray[np.uint8]
    radius_px: float
    margin_px: float
    kept: int


def write_surroundings(
    study: Study,
    images: pd.DataFrame | None,
    cells: pd.DataFrame,
    patches: NDArray[np.uint8],
    masks: Path | None,
    size: int | None,
    folder: str | Path,
) -> Surroundings:
    """Paint the cells out of every image and patch of a study, and keep the result on the disk.

    Cells are where the masks say so, with a margin for their fringes. Without masks of whole
    images, discs of radius 1.41 sigma are taken around the detections, those at the border of an
    image included, whose patches step 02 may have left out; what detection missed stays. Dust
    stays too, but for what is covered or cut with the cells, so the grain of a dusty field can
    still tell a little of how many were painted out. Cells that came as images of their own are
    painted out of their patches (see `explanation.find_labels`).

    Parameters
    ----------
    study : Study
        Its prepared images are read, and its ``detection.json`` where there are no masks.
    images, cells : DataFrame
        ``images.csv``, which may be None where cells came as images of their own, and
        ``cells.csv``.
    patches : uint8 (N, side, side, 3)
        ``patches.npy``.
    masks : Path, optional
        From `explanation.find_masks`.
    size : int, optional
        Side of whole images in px, resized as `training.resize` does; None for none.
    folder : path
        Where the arrays are kept, under a record of all that decided them. A second call finds
        them; one that was interrupted leaves nothing that passes for finished.

    Raises
    ------
    FileNotFoundError, ValueError
        If an image or a mask is missing or of another size than its image, if patches do not fit
        the images, if no cell is found at all, or if `size` is given for cells without images.
    """
    manifest.expect(size is None or size >= 8, "size", size, "None or at least 8 px")
    whole = bool(cells["y"].notna().all())
    if size is not None and not whole:
        raise ValueError(
            f"size: {size} was given, but these cells came as images of their own, so there are "
            "no whole images without cells. Give None."
        )
    folder = from_root(folder)
    folder.mkdir(parents=True, exist_ok=True)
    key = _fingerprint(study, images, cells, masks, size)
    # another process may be making the same
    with FileLock(folder / "surroundings.lock"):
        stored = _stored(folder, cells, key)
        if stored is None:
            (folder / "surroundings.json").unlink(missing_ok=True)
            if whole:
                record = _write_from_images(study, images, cells, patches, masks, size, folder)
            else:
                record = _write_from_patches(study, cells, patches, masks, folder)
            write_json(folder / "surroundings.json", {"key": key, **record})
            stored = _stored(folder, cells, key)
    lost = (~stored.cells["usable"]).sum()
    if lost:
        print(f"Caution: {lost} of {len(cells)} patches show nothing but cells. They are left out.")
    return stored


def _fingerprint(
    study: Study,
    images: pd.DataFrame | None,
    cells: pd.DataFrame,
    masks: Path | None,
    size: int | None,
) -> str:
    """Identify surroundings by tables, files, settings and code."""
    found = hashlib.sha256(f"{size} {masks} {code_digest(*_ROOMS)}".encode())
    columns = ["cell_id", "image_id", "class", "split", "y", "x", "sigma", "row"]
    found.update(cells[columns].to_csv().encode())
    paths = [study.cells / "patches.npy", study.cells / "detection.json"]
    if images is not None:
        found.update(images[["image_id", "path", "source", "split"]].to_csv().encode())
        paths += [study.prepared / path for path in images["path"]]
    paths += sorted(masks.rglob("*.png")) if masks is not None else []
    for path in paths:
        if path.exists():
            state = path.stat()
            found.update(f"{path} {state.st_size} {state.st_mtime_ns}\n".encode())
    return found.hexdigest()


def _stored(folder: Path, cells: pd.DataFrame, key: str) -> Surroundings | None:
    """Open finished surroundings with that fingerprint, or return None; say what is damaged."""
    record = folder / "surroundings.json"
    if not record.exists():
        return None
    try:
        content = json.loads(record.read_text())
        if content.pop("key") != key:
            return None
        arrays = {
            name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in content.pop("arrays")
        }
        tables = {
            name: pd.read_csv(folder / f"{name}.csv", keep_default_na=False) if there else None
            for name, there in content.pop("tables").items()
        }
        usable = arrays.pop("usable")[cells["row"]].astype(bool)
        table = cells[["cell_id", "image_id", "class", "split", "row"]].assign(usable=usable)
        return Surroundings(
            **{"images": None, "only_cells": None, "same_number": None, **arrays, **content},
            **tables,
            cells=table,
        )
    except (ValueError, EOFError, OSError, LookupError, TypeError) as error:
        what = f"is damaged ({type(error).__name__}) and made again"
        print(f"A file of {shown_path(folder)} {what}.")
        return None


class _Painting(NamedTuple):
    """A picture, its cells, how far each pixel is from one, its slow changes, and it painted."""

    picture: NDArray[np.uint8]
    labels: NDArray[np.int32]
    distance: NDArray[np.float32]
    low: NDArray[np.float32]
    painted: NDArray[np.uint8]


class _Reach(NamedTuple):
    """How large cells are, and how far around them the picture is replaced."""

    radius_px: float
    margin_px: float

    @property
    def smoothing_px(self) -> float:
        """What counts as slow."""
        return _SMOOTHING * self.radius_px

    def paint(self, picture: NDArray[np.uint8], labels: NDArray[np.int32], seed: int) -> _Painting:
        """Paint all cells out of a picture."""
        distance = distance_from(labels > 0)
        holes = distance <= self.margin_px
        if holes.all():
            raise ValueError("cells, and the margin around them, cover the whole picture.")
        low = low_frequencies(picture, ~holes, self.smoothing_px)
        return _Painting(picture, labels, distance, low, filled(picture, holes, low, seed))


def _measure_reach(areas: Sequence[ArrayLike], labels: Iterable[NDArray[np.int32]]) -> _Reach:
    """Choose the margin by the cells' areas, and by how full some pictures (`labels`) are."""
    areas = np.concatenate([*areas, []])
    if not len(areas):
        raise ValueError("No cell was found in any mask, so there is none to paint out.")
    radius_px = float(np.sqrt(np.median(areas) / np.pi))
    margins = np.multiply(_MARGINS, radius_px)
    covered = [
        [(away <= m).mean() for m in margins]
        for away in map(distance_from, (x > 0 for x in labels))
    ]
    fits = np.quantile(covered, 0.95, axis=0) <= _MOST_COVERED
    return _Reach(radius_px, float(margins[fits.argmax() if fits.any() else -1]))


def _areas(labels: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return how many pixels each cell of a label image has."""
    return np.unique(labels[labels > 0], return_counts=True)[1]


def _spread(count: int, at_most: int = _SURVEYED) -> NDArray[np.int64]:
    """Return positions spread evenly over so many."""
    return np.unique(np.linspace(0, count - 1, min(count, at_most)).astype(int))


def _each(what: str, work: Callable, things: Sequence) -> list:
    """Work on things side by side, showing how far it is."""
    bar = {"desc": what, "leave": False, "disable": no_bar(), "max_workers": cpu_count()}
    return thread_map(work, things, **bar)


def _find_places(study: Study, images: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """Return ``image_id``, y, x and sigma of all blobs: those of ``cells.csv``, then others.

    Others are found anew with the settings of step 02, as it may have left out what lies at the
    border of an image.
    """
    file = study.cells / "detection.json"
    settings = detection.DetectionSettings.read(file) if file.exists() else None
    numbers = cells[["y", "x", "sigma"]].to_numpy()
    of_image = cells.groupby("image_id").indices

    def places_in(row: Mapping) -> pd.DataFrame:
        places = numbers[of_image.get(row["image_id"], [])]
        if settings is not None:
            others = detection.detect_cells(read_rgb(study.prepared / row["path"]), settings)
            apart = np.hypot(*np.moveaxis(others[:, None, :2] - places[None, :, :2], 2, 0))
            places = np.concatenate([places, others[(apart > others[:, 2:]).all(axis=1)]])
        return pd.DataFrame(places, columns=["y", "x", "sigma"]).assign(image_id=row["image_id"])

    return pd.concat(_each("cells of images", places_in, images.to_dict("records")))


def _labels_source(
    places: pd.DataFrame | None, masks: Path | None
) -> Callable[[Mapping], NDArray[np.int32]]:
    """Return a function that gives the label image of a row of ``images.csv``."""
    if places is None:
        return lambda row: _masks_of(row, masks)
    numbers, of_image = places[["y", "x", "sigma"]].to_numpy(), places.groupby("image_id").indices

    def discs(row: Mapping) -> NDArray[np.int32]:
        return _discs((row["height"], row["width"]), numbers[of_image.get(row["image_id"], [])])

    return discs


def _masks_of(row: Mapping, masks: Path) -> NDArray[np.int32]:
    """Read the label image of a row of ``images.csv``, and refuse one of another size."""
    path = masks / Path(row["source"]).with_suffix(".png")
    labels = explanation.read_labels(path)
    if labels.shape != (row["height"], row["width"]):
        raise ValueError(
            f"{shown_path(path)} has {labels.shape} pixels and its image "
            f"({row['height']}, {row['width']}). Give masks in the size of the prepared images."
        )
    return labels


def _discs(shape: tuple[int, int], places: NDArray[np.float64]) -> NDArray[np.int32]:
    """Draw a label image of cells as discs around blobs (N, 3): y, x, sigma."""
    labels = np.zeros(shape, np.int32)
    for number, (y, x, sigma) in enumerate(places, 1):
        cv2.circle(labels, (round(x), round(y)), round(2**0.5 * sigma), number, -1)
    return labels


def _windows(picture: NDArray[np.uint8], cells: pd.DataFrame, side: int) -> NDArray[np.uint8]:
    """Cut the windows of patches from an image as step 02 did, mirrored beyond its border."""
    padded = cv2.copyMakeBorder(picture, side, side, side, side, cv2.BORDER_REFLECT)
    corners = np.rint(cells[["y", "x"]].to_numpy()).astype(int) - side // 2 + side
    cut = [padded[top : top + side, left : left + side] for top, left in corners]
    return np.stack(cut) if cut else np.empty((0, side, side, 3), np.uint8)


def _common(pictures: Sequence[NDArray[np.uint8]], smoothing_px: float) -> NDArray[np.uint8]:
    """Return one background for all: the mean colour of some, with the grain of the first."""
    everywhere = np.ones(pictures[0].shape[:2], bool)
    grain = pictures[0] - low_frequencies(pictures[0], everywhere, smoothing_px)
    colour = np.mean([picture.mean(axis=(0, 1)) for picture in pictures], axis=0)
    return np.rint(grain + colour).clip(0, 255).astype(np.uint8)


def _write_from_images(
    study: Study,
    images: pd.DataFrame,
    cells: pd.DataFrame,
    patches: NDArray[np.uint8],
    masks: Path | None,
    size: int | None,
    folder: Path,
) -> dict:
    """Paint cells out of whole images, and cut the patches from those; return the record."""
    places = _find_places(study, images, cells) if masks is None else None
    labels_of = _labels_source(places, masks)
    rows, of_image = images.to_dict("records"), cells.groupby("image_id").indices
    seeds = manifest.rank_names(images["image_id"], 0)
    areas = _each("cells of images", lambda row: _areas(labels_of(row)), rows)
    reach = _measure_reach(areas, (labels_of(rows[k]) for k in _spread(len(rows))))
    counts, kept = _count(images, areas)

    def painting_of(k: int) -> _Painting:
        picture = read_rgb(study.prepared / rows[k]["path"])
        try:
            return reach.paint(picture, labels_of(rows[k]), seeds[k])
        except ValueError as error:
            raise ValueError(f"Image {rows[k]['image_id']}: {error}") from error

    def write_patches(k: int, painting: _Painting) -> None:
        ours = cells.iloc[of_image.get(rows[k]["image_id"], [])]
        of_ours = ours["row"].to_numpy()
        if (_windows(painting.picture, ours, patches.shape[1]) != patches[of_ours]).any():
            raise ValueError(
                f"patches.npy does not hold what lies in image {rows[k]['image_id']} at the "
                "places of cells.csv. Run notebook 02 again."
            )
        arrays["patches"][of_ours] = _windows(painting.painted, ours, patches.shape[1])

    def write_images(k: int, painting: _Painting) -> None:
        arrays["images"][k] = training.resize(painting.painted[None], size)[0]
        if counts["judged"].iloc[k]:
            arrays["only_cells"][k] = _only_cells(painting, reach.margin_px, common)
            chosen = np.random.default_rng([seeds[k], kept])
            fewer = _fewer_cells(painting, reach.margin_px, kept, chosen)
            arrays["same_number"][k] = training.resize(fewer[None], size)[0]

    def write(k: int) -> None:
        painting = painting_of(k)
        write_patches(k, painting)
        if size:
            write_images(k, painting)

    shapes = {"patches": patches.shape}
    if size:
        names = "images", "only_cells", "same_number"
        shapes |= dict.fromkeys(names, (len(rows), size, size, 3))
        some = [painting_of(k).painted for k in _spread(len(rows), 8)]
        common = _common(np.concatenate([training.resize(x[None], size) for x in some]), size / 20)
    with _new_arrays(folder, shapes) as arrays:
        _each("painting cells out", write, range(len(rows)))
        usable = np.ones(len(patches), bool)
        record = _close(arrays, cells, usable, reach, folder)
        write_csv(folder / "counts.csv", counts)
        if places is not None:
            write_csv(folder / "places.csv", places)
    tables = {"counts": True, "places": places is not None}
    return record | {"kept": kept if size else 0, "tables": tables}


def _write_from_patches(
    study: Study, cells: pd.DataFrame, patches: NDArray[np.uint8], masks: Path | None, folder: Path
) -> dict:
    """Paint cells out of patches that came as images of their own; return the record."""

    def found(some: pd.DataFrame) -> NDArray[np.int32]:
        return explanation.find_labels(some, patches[some["row"]], study.prepared, masks)

    labels = found(cells.iloc[_spread(len(cells))])
    reach = _measure_reach([_areas(of_patch) for of_patch in labels], labels)
    usable, seeds = np.ones(len(patches), bool), manifest.rank_names(cells["cell_id"], 0)

    def write(k: int) -> None:
        row = cells["row"].iloc[k]
        try:
            painting = reach.paint(patches[row], labels[k % _AT_ONCE], seeds[k])
            arrays["patches"][row] = painting.painted
        except ValueError:  # nothing but cells: black, and said
            usable[row] = False

    with _new_arrays(folder, {"patches": patches.shape}) as arrays:
        for start in range(0, len(cells), _AT_ONCE):
            labels = found(cells.iloc[start : start + _AT_ONCE])
            _each("painting cells out", write, range(start, start + len(labels)))
        record = _close(arrays, cells, usable, reach, folder)
    return record | {"kept": 0, "tables": {"counts": False, "places": False}}


def _count(images: pd.DataFrame, areas: Sequence[ArrayLike]) -> tuple[pd.DataFrame, int]:
    """Count the cells of images, and say how many three of four images judged have at least."""
    subset = "test" if (images["split"] == "test").any() else "validation"
    counts = images[["image_id"]].assign(
        cells=[len(of_image) for of_image in areas], judged=images["split"] == subset
    )
    judged = counts.loc[counts["judged"], "cells"]
    kept = max(1, int(np.percentile(judged, 25))) if len(judged) else 1
    return counts.assign(too_few=counts["cells"] < kept), kept


@contextmanager
def _new_arrays(
    folder: Path, shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[dict[str, NDArray[np.uint8]]]:
    """Yield new arrays on the disk that get their names only on success."""
    with ExitStack() as stack:
        places = {name: stack.enter_context(atomic_path(folder / f"{name}.npy")) for name in shapes}
        arrays = {name: reserved_array(places[name], shape) for name, shape in shapes.items()}
        yield arrays
        for array in arrays.values():
            array.flush()


def _close(
    arrays: Mapping[str, NDArray[np.uint8]],
    cells: pd.DataFrame,
    usable: NDArray[np.bool_],
    reach: _Reach,
    folder: Path,
) -> dict:
    """Write what the surroundings have in common, and return the record of all."""
    rows = cells["row"].to_numpy()[usable[cells["row"]]]
    if not len(rows):
        raise ValueError("No patch shows anything but cells: there are no surroundings to judge.")
    some = arrays["patches"][rows[_spread(len(rows))]]
    np.save(folder / "common.npy", _common(some, reach.smoothing_px))
    np.save(folder / "usable.npy", usable)
    return {"arrays": [*arrays, "common", "usable"], **reach._asdict()}


def _only_cells(
    painting: _Painting, margin_px: float, common: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Keep the cells of an image, resized like a common background, and put them onto that."""
    size = common.shape[0], common.shape[1]
    soft = soft_outline(painting.distance, margin_px)
    cells = cv2.resize(soft * (painting.picture - painting.low), size, interpolation=cv2.INTER_AREA)
    ground = 1 - cv2.resize(soft[..., 0], size, interpolation=cv2.INTER_AREA)[..., None]
    colour = common.mean(axis=(0, 1))
    return np.rint(cells + colour + ground * (common - colour)).clip(0, 255).astype(np.uint8)


def _fewer_cells(
    painting: _Painting, margin_px: float, kept: int, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Paint cells out of an image but so many, chosen at random."""
    numbers = np.unique(painting.labels[painting.labels > 0])
    stay = rng.permutation(numbers)[:kept]
    ours = np.isin(painting.labels, stay)
    # nearer to a cell that stays, so that one that touches another loses nothing
    own = (distance_from(ours) <= painting.distance) & (painting.distance <= margin_px)
    return np.where(own[..., None], painting.picture, painting.painted)


def find_cells(
    study: Study,
    cells: pd.DataFrame,
    patches: NDArray[np.uint8],
    masks: Path | None,
    surroundings: Surroundings,
) -> NDArray[np.int32]:
    """Find the cells in some patches as they were found to be painted out.

    Parameters
    ----------
    study, cells, patches, masks
        As `write_surroundings` took them, but for `cells`, which may be some of the rows.
    surroundings : Surroundings
        What it returned.

    Returns
    -------
    int32 (N, side, side)
        Label images of the patches of these rows: from masks; or discs around detections; or,
        of patches that came as images of their own, each cell that was segmented, in one piece.
    """
    side, places = patches.shape[1], surroundings.places
    if places is None:
        labels = explanation.find_labels(cells, patches[cells["row"]], study.prepared, masks)
        if masks is None:  # segmentation parts what touches, and now and then one cell
            labels = np.stack(
                [cv2.connectedComponents((x > 0).astype(np.uint8))[1] for x in labels]
            )
        return labels
    numbers, of_image = places[["y", "x", "sigma"]].to_numpy(), places.groupby("image_id").indices
    corners = np.rint(cells[["y", "x"]].to_numpy()) - side // 2
    shift = np.pad(corners, ((0, 0), (0, 1)))
    near = (numbers[of_image[name]] - by for name, by in zip(cells["image_id"], shift, strict=True))
    return np.stack([_discs((side, side), blobs) for blobs in near])


def cell_views(
    cells: pd.DataFrame,
    patches: NDArray[np.uint8],
    surroundings: Surroundings,
    labels: NDArray[np.int32],
    seed: int,
) -> dict[str, NDArray[np.uint8]]:
    """Show cells as they are, alone, not at all, and in the places of other cells.

    A cell is moved with what it adds to the slow changes around it, within a soft outline, so
    that its contrast stays and its background is left behind. Both views with another's
    background take it from another image, drawn by the seed and the cell's name among all cells
    of the same subset, and differ in nothing but whose background it is.

    Parameters
    ----------
    cells : DataFrame
        Some rows of ``cells.csv``; all their views are in memory at once.
    patches : uint8 (M, side, side, 3)
        ``patches.npy``.
    surroundings : Surroundings
        From `write_surroundings`.
    labels : int32 (N, side, side)
        Cells in the patches of these rows, from `find_cells`. Where none reaches the middle (a
        false detection), a disc of a quarter of the side stands for it.
    seed : int
        Decides whose backgrounds are taken.

    Returns
    -------
    dict of str to uint8 (N, side, side, 3)
        `AS_IT_IS`, `ONLY_CELL` on ``surroundings.common``, `SURROUNDINGS`, and, where these data
        have another image of some class and another class, `OWN_BACKGROUND` and
        `OTHER_BACKGROUND`. A cell of a class that lies in one image only stays as it is in both.
        Where a patch shows nothing but cells (see `Surroundings.cells`), all but the first are
        black.
    """
    rows, donors = cells["row"].to_numpy(), _donors(cells, surroundings.cells, seed)
    known = surroundings.cells.set_index("row")["usable"].loc[rows].to_numpy()
    smoothing = _SMOOTHING * surroundings.radius_px
    soft = _own_outlines(labels, surroundings.margin_px)
    given, alone = patches[rows], surroundings.patches[rows]
    everywhere = np.ones(given.shape[1:3], bool)

    def slow(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        return low_frequencies(picture, everywhere, smoothing)

    added = [own - slow(without) for own, without in zip(given, alone, strict=True)]

    def moved(k: int, ground: NDArray[np.uint8]) -> NDArray[np.uint8]:
        picture = soft[k] * (added[k] + slow(ground)) + (1 - soft[k]) * ground
        return np.rint(picture).clip(0, 255).astype(np.uint8)

    views = {
        AS_IT_IS: given,
        ONLY_CELL: np.stack([moved(k, surroundings.common) for k in range(len(rows))]),
        SURROUNDINGS: alone,
    }
    for name, of_cells in donors.items():
        views[name] = np.stack(
            [
                moved(k, surroundings.patches[donor]) if donor >= 0 else given[k]
                for k, donor in enumerate(of_cells)
            ]
        )
    for name in set(views) - {AS_IT_IS}:
        views[name][~known] = 0
    return views


def _donors(cells: pd.DataFrame, every: pd.DataFrame, seed: int) -> dict[str, NDArray[np.int64]]:
    """Draw the row of a background for each cell, of its class and of another; -1 for none."""
    pool = every[every["usable"] & every["split"].isin(cells["split"].unique())]
    of_class = {
        name: (p["row"].to_numpy(), p["image_id"].to_numpy()) for name, p in pool.groupby("class")
    }
    drawn = np.full((2, len(cells)), -1)
    names = manifest.rank_names(cells["cell_id"], seed)
    for k, (name, image_id, label) in enumerate(
        zip(names, cells["image_id"], cells["class"], strict=True)
    ):
        rng = np.random.default_rng(name)
        others = sorted(of_class.keys() - {label})
        rows, their_images = of_class.get(label, (np.empty(0, int), np.empty(0, str)))
        rows = rows[their_images != image_id]
        if len(others) and len(rows):
            drawn[:, k] = (
                rng.choice(rows),
                rng.choice(of_class[others[rng.integers(len(others))]][0]),
            )
    possible = len(of_class) > 1 and any(len(set(ids)) > 1 for _, ids in of_class.values())
    return dict(zip((OWN_BACKGROUND, OTHER_BACKGROUND), drawn, strict=True)) if possible else {}


def _own_outlines(labels: NDArray[np.int32], margin_px: float) -> list[NDArray[np.float32]]:
    """Return, for each patch, 1 on its own cell and around it, softly falling to 0: (H, W, 1)."""
    side = labels.shape[1]
    rows, columns = np.ogrid[:side, :side]
    disc = np.hypot(rows - side // 2, columns - side // 2) <= side / 4
    outlines = []
    for patch, own in zip(labels, explanation.own_masks(labels), strict=True):
        distance = distance_from(own if own.any() else disc)
        # what is nearer to a neighbour belongs to that, with a soft edge between them
        nearer = np.clip((distance_from((patch > 0) & ~own) - distance) / 3, 0, 1)
        outlines.append(soft_outline(distance, margin_px) * nearer[..., None])
    return outlines
