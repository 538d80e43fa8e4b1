"""Which pixels belong to a cell: from label images, or from the picture itself.

Only the judging of Grad-CAM uses these; no model ever sees them.
"""

import re
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.feature import peak_local_max
from skimage.filters import threshold_otsu
from skimage.segmentation import watershed

from hsc_utils import manifest
from hsc_utils.explanation.maps import same_shapes
from hsc_utils.files import from_root, shown_path
from hsc_utils.study import Study

_PARTS = {"nucleus": "nuclei", "granules": "granules"}  # folders of a study's truth
_HASH = re.compile("-[0-9a-f]{8}$")


def find_masks(study: Study, cells: pd.DataFrame, masks_dir: str | Path | None) -> Path | None:
    """Return the folder of masks: the one given, or else the study's ``truth/masks``, if any.

    Those are of whole images, so only cells with a place in an image have one.
    """
    if masks_dir is not None:
        if not from_root(masks_dir).is_dir():
            raise FileNotFoundError(f"masks_dir: there is no folder {shown_path(masks_dir)}.")
        return from_root(masks_dir)
    own = study.truth / "masks"
    return own if own.is_dir() and cells["y"].notna().all() else None


def find_parts(study: Study, masks: Path | None) -> dict[str, Path]:
    """Return the folders of the label images of parts of cells, by part, where a study has them.

    A simulated study has ``truth/nuclei`` and ``truth/granules``, labelled as ``truth/masks``;
    so they belong to those masks (from `find_masks`) and to no others.
    """
    if masks != study.truth / "masks":
        return {}
    folders = {name: study.truth / folder for name, folder in _PARTS.items()}
    return {name: folder for name, folder in folders.items() if folder.is_dir()}


def find_labels(
    cells: pd.DataFrame, patches: np.ndarray, prepared_dir: str | Path, masks: Path | None
) -> np.ndarray:
    """Find the cells in patches: from masks where there are any, otherwise by segmentation.

    Parameters
    ----------
    cells : DataFrame
        Rows of ``cells.csv``. Cells without a place in an image (no ``y``) came as images of
        their own, and so did their masks.
    patches : ndarray
        uint8 (N, side, side, 3), in the same order.
    prepared_dir : path
        Folder of ``images.csv``; read only for masks of whole images.
    masks : Path, optional
        From `find_masks`; None segments the patches.

    Returns
    -------
    ndarray
        int32 (N, side, side): 0 background, each other value one cell.
    """
    if masks is None:
        return segment_patches(patches)
    if cells["y"].isna().any():
        return single_labels(cells, masks, patches.shape[1])
    return patch_labels(cells, manifest.read_images(prepared_dir), masks, patches.shape[1])


def patch_labels(cells: pd.DataFrame, images: pd.DataFrame, masks: Path, side: int) -> np.ndarray:
    """Cut the windows of patches from label images that lie as the acquisitions did, as PNG."""
    images = images.set_index("image_id")
    labels = np.zeros((len(cells), side, side), np.int32)
    positions = pd.Series(range(len(cells)), cells.index)
    for image_id, ours in cells.groupby("image_id", sort=False):
        image = images.loc[image_id]
        path = masks / Path(image["source"]).with_suffix(".png")
        whole = read_labels(path)
        if whole.shape != (image["height"], image["width"]):
            raise ValueError(
                f"{shown_path(path)} has {whole.shape} pixels and its image "
                f"({image['height']}, {image['width']}): windows would be cut beside the cells. "
                "Give masks in the size of the prepared images."
            )
        padded = np.pad(whole, side)
        corners = np.rint(ours[["y", "x"]].to_numpy()).astype(int) - side // 2 + side
        for position, (top, left) in zip(positions[ours.index], corners, strict=True):
            labels[position] = padded[top : top + side, left : left + side]
    return labels


def single_labels(cells: pd.DataFrame, masks: Path, side: int) -> np.ndarray:
    """Read one mask a patch, named as the last part of ``image_id``, at any depth of a folder.

    Of several of that name it is the one below a folder named like the cell's class. Masks are
    mirrored to a square and resized as the patches were, without mixing values; any
    value above 0 is the cell.
    """
    found = defaultdict(list)
    for path in sorted(masks.rglob("*.png")):
        found[re.sub(r"[^A-Za-z0-9._-]", "-", path.stem)].append(path)  # as in an image_id
    labels = np.zeros((len(cells), side, side), np.int32)
    of_each = cells.reindex(columns=["image_id", "class"]).to_numpy()
    for position, (image_id, label) in enumerate(of_each):
        name = image_id.split("__")[-1]
        # an image_id that would be another's too ends in a hash
        named = found[name] or found[_HASH.sub("", name)] or [masks / f"{name}.png"]
        if len(named) > 1:
            named = [path for path in named if label in path.parts] or named
        if len(named) > 1:
            raise ValueError(
                f"{shown_path(named[0])} and {shown_path(named[1])} could both be the mask of "
                f"{image_id}. Put masks into folders named like the classes, one a cell."
            )
        mask = read_labels(named[0]) > 0
        longest = max(mask.shape)
        spare = [longest - length for length in mask.shape]
        square = np.pad(mask, [(n // 2, n - n // 2) for n in spare], mode="symmetric")
        labels[position] = cv2.resize(
            square.astype(np.uint8), (side, side), interpolation=cv2.INTER_NEAREST
        )
    return labels


def read_labels(path: Path) -> np.ndarray:
    """Read a label image, int32 (H, W): 0 background, each other value one cell."""
    if not path.exists():
        raise FileNotFoundError(
            f"There is no mask {shown_path(path)}. Masks lie under their image's own folders and "
            "name in masks_dir, or in the study's truth/masks where masks_dir is None; where "
            "neither is there, patches are segmented."
        )
    labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if labels is None or labels.ndim != 2:
        what = "cannot be read" if labels is None else f"has the shape {labels.shape}"
        raise ValueError(f"{shown_path(path)} is not a gray label image: it {what}.")
    return labels.astype(np.int32)


def segment_patches(patches: np.ndarray) -> np.ndarray:
    """Find cells in patches by their local contrast, where no masks exist.

    Difference from the background and gradient, in units of each slice's noise, smoothed,
    are thresholded by Otsu's method; holes are filled, and touching cells are parted by a
    watershed of the distance to the outline. The patch's rim is taken for background.
    It is crude: look at it beside the patches before believing a share. The result is that of
    `find_labels`.
    """
    if patches.ndim != 4 or patches.shape[3] != 3:
        raise ValueError(f"patches: shape {patches.shape}, but (N, H, W, 3) was expected.")
    labels = np.zeros(patches.shape[:3], np.int32)
    rim = np.ones(patches.shape[1:3], bool)
    rim[3:-3, 3:-3] = False
    for position, patch in enumerate(patches.astype(float)):
        background = np.median(patch[rim], axis=0)
        spread = np.median(np.abs(patch[rim] - background), axis=0) + 1
        gradient = ndimage.gaussian_gradient_magnitude(patch / spread, 1, axes=(0, 1))
        contrast = (np.abs(patch - background) / spread + gradient).clip(max=40).mean(axis=2)
        contrast = ndimage.gaussian_filter(contrast, len(patch) / 32)
        mask = ndimage.binary_fill_holes(contrast > threshold_otsu(contrast))
        mask = ndimage.binary_opening(mask, iterations=2)
        distance = ndimage.gaussian_filter(ndimage.distance_transform_edt(mask), 2)
        peaks = peak_local_max(distance, min_distance=len(patch) // 8, labels=mask.astype(int))
        seeds = np.zeros(mask.shape, np.int32)
        seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
        labels[position] = watershed(-distance, seeds, mask=mask)
    return labels


def own_masks(labels: np.ndarray) -> np.ndarray:
    """Return where each patch's own cell is: the commonest of its labels in the central ninth.

    bool (N, H, W); nowhere true where no cell reaches the centre (a false detection).
    """
    height, width = (length // 3 for length in labels.shape[1:])
    masks = np.zeros(labels.shape, bool)
    for mask, patch in zip(masks, labels, strict=True):
        centre = patch[height : len(patch) - height, width : patch.shape[1] - width]
        values = centre[centre > 0]
        if len(values):
            mask[:] = patch == np.bincount(values).argmax()
    return masks


def parts_of(labels: np.ndarray, part_labels: np.ndarray, name: str) -> np.ndarray:
    """Return where a part of any cell is, bool (N, H, W), or say that it is of other cells."""
    same_shapes(labels=labels, part_labels=part_labels)
    found = part_labels > 0
    if (astray := found & (part_labels != labels)).any():
        raise ValueError(
            f"{name}: {astray.sum()} of {found.sum()} pixels lie where the masks show another cell "
            "or none. The label images of parts must be of the same cells, with the same labels, "
            "as the masks: make both again with one simulation."
        )
    return found


def detected(images: pd.DataFrame, cells: pd.DataFrame, pictures: np.ndarray) -> np.ndarray:
    """Draw the detections of images, resized, as discs of radius √2·sigma.

    Parameters
    ----------
    images, cells : DataFrame
        Rows of ``images.csv``, and ``cells.csv``.
    pictures : ndarray
        uint8 (N, size, size, 3), the images resized. Where cells came ready, without a place
        in their images, these are segmented instead (`segment_patches`).

    Returns
    -------
    ndarray
        int32 (N, size, size): 0 outside every disc, otherwise 1 + the row of the nearest
        detection among its image's.
    """
    if not cells[["y", "x", "sigma"]].notna().all(axis=None):
        return segment_patches(pictures)
    size = pictures.shape[1]
    labels = np.zeros(pictures.shape[:3], np.int32)
    for drawn, image in zip(labels, images.itertuples(), strict=True):
        ours = cells[cells["image_id"] == image.image_id]
        if len(ours):
            # each pixel stands for the point of the image that its centre falls on
            shape = image.height, image.width
            steps = [(np.arange(size) + 0.5) * length / size - 0.5 for length in shape]
            points = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1)
            distance, nearest = cKDTree(ours[["y", "x"]]).query(points)
            radius = np.sqrt(2) * ours["sigma"].to_numpy()
            drawn[:] = np.where(distance <= radius[nearest], nearest + 1, 0)
    return labels


def overlap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the intersection over union of two stacks of masks, bool (N, H, W) → float (N,)."""
    same_shapes(first=first, second=second)
    union = (first | second).sum(axis=(1, 2))
    shared = (first & second).sum(axis=(1, 2))
    return np.divide(shared, union, out=np.full(len(first), np.nan), where=union > 0)
