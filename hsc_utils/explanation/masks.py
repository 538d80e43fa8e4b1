"""Which pixels belong to a cell: from label images, or from the picture itself.

Only the judging of Grad-CAM uses these; no model ever sees them.
"""

from collections.abc import Sequence
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
from hsc_utils.files import from_root, shown_path


def read_labels(path: str | Path) -> np.ndarray:
    """Read a label image, int32 (H, W): 0 background, each other value one cell.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not a gray image.
    """
    path = from_root(path)
    if not path.exists():
        raise FileNotFoundError(
            f"There is no mask {shown_path(path)}. Masks lie in masks_dir under their image's "
            "own folders and name; without masks, set masks_dir to None."
        )
    labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if labels is None or labels.ndim != 2:
        raise ValueError(f"{shown_path(path)} is not a gray label image.")
    return labels.astype(np.int32)


def patch_labels(
    cells: pd.DataFrame, images: pd.DataFrame, masks_dir: str | Path, side: int
) -> np.ndarray:
    """Cut from the label images of whole acquisitions the windows of patches.

    Parameters
    ----------
    cells : DataFrame
        Rows of ``cells.csv``: ``image_id``, ``y`` and ``x`` are read.
    images : DataFrame
        ``images.csv``: ``source`` gives the path of an image's mask inside `masks_dir`,
        with the suffix ``.png``.
    masks_dir : path
        Folder of label images.
    side : int
        Side of the patches, pixels.

    Returns
    -------
    ndarray
        int32 (N, side, side) in the order of `cells`; 0 beyond the image.
    """
    sources = images.set_index("image_id")["source"]
    labels = np.zeros((len(cells), side, side), np.int32)
    positions = pd.Series(range(len(cells)), cells.index)
    for image_id, ours in cells.groupby("image_id", sort=False):
        path = from_root(masks_dir) / Path(sources[image_id]).with_suffix(".png")
        padded = np.pad(read_labels(path), side)
        corners = np.rint(ours[["y", "x"]].to_numpy()).astype(int) - side // 2 + side
        for position, (top, left) in zip(positions[ours.index], corners, strict=True):
            labels[position] = padded[top : top + side, left : left + side]
    return labels


def single_labels(cells: pd.DataFrame, masks_dir: str | Path, side: int) -> np.ndarray:
    """Read one mask a patch, for cells that came as images of their own.

    Parameters
    ----------
    cells : DataFrame
        Rows of ``cells.csv``; the last part of ``image_id`` is the mask's name.
    masks_dir : path
        Folder of masks, searched at any depth; any value above 0 is the cell.
    side : int
        Masks are mirrored to a square and resized to this, as the patches were
        (`patches.squared`), without mixing values.

    Returns
    -------
    ndarray
        int32 (N, side, side), 1 in the cell.
    """
    found = {path.stem: path for path in sorted(from_root(masks_dir).rglob("*.png"))}
    labels = np.zeros((len(cells), side, side), np.int32)
    for position, image_id in enumerate(cells["image_id"]):
        name = image_id.split("__")[-1]
        mask = read_labels(found.get(name, from_root(masks_dir) / f"{name}.png")) > 0
        longest = max(mask.shape)
        spare = [longest - length for length in mask.shape]
        square = np.pad(mask, [(n // 2, n - n // 2) for n in spare], mode="symmetric")
        labels[position] = cv2.resize(
            square.astype(np.uint8), (side, side), interpolation=cv2.INTER_NEAREST
        )
    return labels


def find_labels(
    cells: pd.DataFrame,
    patches: np.ndarray,
    prepared_dir: str | Path,
    masks_dir: str | Path | None,
) -> np.ndarray:
    """Find the cells in patches: from masks where there are any, otherwise by segmentation.

    Parameters
    ----------
    cells : DataFrame
        Rows of ``cells.csv``.
    patches : ndarray
        uint8 (N, side, side, 3), in the same order.
    prepared_dir : path
        Folder of ``images.csv``; not read for cells without a place in an image (no ``y``),
        which came as images of their own, and so did their masks.
    masks_dir : path, optional
        Folder of masks; None segments the patches.

    Returns
    -------
    ndarray
        int32 (N, side, side).
    """
    if masks_dir is None:
        return segment_patches(patches)
    if cells["y"].isna().any():
        return single_labels(cells, masks_dir, patches.shape[1])
    images = manifest.read_images(prepared_dir)
    return patch_labels(cells, images, masks_dir, patches.shape[1])


def segment_patches(patches: np.ndarray) -> np.ndarray:
    """Find cells in patches by their local contrast, where no masks exist.

    Difference from the background and gradient, in units of each slice's noise, smoothed,
    are thresholded by Otsu's method; holes are filled, and touching cells are parted by a
    watershed of the distance to the outline. The patch's rim is taken for background.
    It is crude: look at it beside the patches before believing a share.

    Parameters
    ----------
    patches : ndarray
        uint8 (N, H, W, 3).

    Returns
    -------
    ndarray
        int32 (N, H, W): 0 background, each other value one cell.
    """
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
    """Return the mask of each patch's own cell: the commonest label in its central ninth.

    Parameters
    ----------
    labels : ndarray
        int (N, H, W), 0 background.

    Returns
    -------
    ndarray
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


def detection_labels(cells: pd.DataFrame, shape: Sequence[int], size: int) -> np.ndarray:
    """Draw the detections of one image, resized, as discs of radius √2·sigma.

    Parameters
    ----------
    cells : DataFrame
        The image's rows of ``cells.csv``: ``y``, ``x`` and ``sigma``, pixels of the image.
    shape : (int, int)
        Height and width of the image, pixels.
    size : int
        Side of the result; each of its pixels stands for the point of the image that its
        centre falls on.

    Returns
    -------
    ndarray
        int32 (size, size): 0 outside every disc, otherwise 1 + the row of the nearest
        detection.
    """
    if cells.empty:
        return np.zeros((size, size), np.int32)
    steps = [(np.arange(size) + 0.5) * length / size - 0.5 for length in shape]
    points = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1)
    distance, nearest = cKDTree(cells[["y", "x"]]).query(points)
    radius = np.sqrt(2) * cells["sigma"].to_numpy()
    return np.where(distance <= radius[nearest], nearest + 1, 0).astype(np.int32)


def detected(images: pd.DataFrame, cells: pd.DataFrame, size: int) -> np.ndarray:
    """Draw the detections of several images: int32 (N, size, size), as `detection_labels`.

    Parameters
    ----------
    images : DataFrame
        Rows of ``images.csv``: ``image_id``, ``height`` and ``width``.
    cells : DataFrame
        ``cells.csv``.
    size : int
        Side of the resized images, pixels.
    """
    own = [cells[cells["image_id"] == image_id] for image_id in images["image_id"]]
    shapes = images[["height", "width"]].to_numpy()
    return np.stack([detection_labels(c, s, size) for c, s in zip(own, shapes, strict=True)])


def overlap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the intersection over union of two stacks of masks, bool (N, H, W) → float (N,)."""
    union = (first | second).sum(axis=(1, 2))
    shared = (first & second).sum(axis=(1, 2))
    return np.divide(shared, union, out=np.full(len(first), np.nan), where=union > 0)
