"""Image files and square patches cut from them: pixels only, no tables."""

import math
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from hsc_utils.provenance import atomic_path, shown_path

BORDERS = ("drop", "reflect")


def read_rgb(path: str | Path) -> NDArray[np.uint8]:
    """Read an image file as RGB, uint8 of shape (Y, X, 3)."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise ValueError(f"{shown_path(path)} cannot be read as an image. Make or copy it again.")
    return image


def write_rgb(path: str | Path, rgb: NDArray[np.uint8]) -> None:
    """Write an RGB image, uint8 of shape (Y, X, 3), as PNG, atomically."""
    _, encoded = cv2.imencode(".png", cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2BGR))
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded.tobytes())


def cut_patches(
    rgb: NDArray[np.uint8], found: ArrayLike, side: int, border: str = "drop"
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Cut a square around each cell.

    Parameters
    ----------
    rgb : ndarray of uint8, shape (Y, X, 3)
        Image.
    found : array_like, shape (N, 3)
        y, x and sigma of each cell in px.
    side : int
        Side of a patch in px. The pixel nearest to the centre comes to lie at side // 2.
    border : {"drop", "reflect"}
        See `extract_cells`.

    Returns
    -------
    found : ndarray, shape (M, 4)
        y, x, sigma of the cells kept, and 1 where the centre of another cell lies in the
        patch, also of one that was dropped.
    patches : ndarray of uint8, shape (M, side, side, 3)
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

    A cell's diameter is 2.83 sigma; the side is rounded up to a multiple of 8.
    """
    diameter = 2 * math.sqrt(2) * float(np.quantile(np.asarray(sigmas), 0.99))
    return 8 * math.ceil(1.25 * diameter / 8)


def squared(rgb: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Mirror an image to a square around its middle, and resize it to a side in px."""
    height, width = rgb.shape[:2]
    longest = max(height, width)
    top, left = (longest - height) // 2, (longest - width) // 2
    square = cv2.copyMakeBorder(
        rgb, top, longest - height - top, left, longest - width - left, cv2.BORDER_REFLECT
    )
    shrinking = longest > side
    return cv2.resize(
        square, (side, side), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
    )
