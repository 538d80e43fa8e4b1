"""scipy's truncated Gaussian and its second derivative, as numbers and at single pixels."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_AT_ONCE = 1_000_000  # pixels filtered together, to bound memory


@lru_cache(maxsize=256)
def kernels(sigma: float) -> tuple[NDArray[np.int_], NDArray[np.float64], NDArray[np.float64]]:
    """Return offsets, Gaussian and second derivative as `scipy.ndimage` samples them.

    Both end at 4 sigma, rounded; the Gaussian sums to 1.
    """
    offsets = np.arange(-int(4 * sigma + 0.5), int(4 * sigma + 0.5) + 1)
    smooth = np.exp(-0.5 / (sigma * sigma) * offsets**2)
    smooth /= smooth.sum()
    return offsets, smooth, smooth * (offsets**2 / sigma**4 - 1 / sigma**2)


def responses_at(
    image: NDArray, pixels: NDArray[np.int_], sigmas: Sequence[float], reach: int = 1
) -> NDArray[np.float64]:
    """Filter an image with scipy's own kernels around single pixels.

    Parameters
    ----------
    image : ndarray, shape (Y, X)
        Floats, or unsigned integers that stand for 0 to 1.
    pixels : ndarray of int, shape (N, 2)
        y and x.
    sigmas : sequence of float, length S
        Scales in px.
    reach : int
        How many pixels around each are filtered as well.

    Returns
    -------
    ndarray, shape (N, S, 2 reach + 1, 2 reach + 1)
        Scale-normalised negative Laplacian of Gaussian.
    """
    count = 2 * reach + 1
    radius = max(kernels(sigma)[0][-1] for sigma in sigmas) + reach
    smooths, bends = shifted = np.zeros((2, len(sigmas), count, 2 * radius + 1))
    for index, sigma in enumerate(sigmas):
        offsets, smooth, bend = kernels(sigma)
        for shift in range(count):
            first = radius - reach + shift - offsets[-1]
            shifted[:, index, shift, first : first + len(offsets)] = smooth, -(sigma**2) * bend
    unit = 1 / np.iinfo(image.dtype).max if image.dtype.kind == "u" else 1
    blocks = np.empty((len(pixels), len(sigmas), count, count))
    at_once = max(1, _AT_ONCE // (2 * radius + 1) ** 2)
    for start in range(0, len(pixels), at_once):
        part = slice(start, start + at_once)
        patches = [image[_window(pixel, radius, image.shape)] for pixel in pixels[part]]
        patches = np.stack(patches).astype(float)[:, None]
        blocks[part] = (bends @ patches) @ smooths.transpose(0, 2, 1)
        blocks[part] += (smooths @ patches) @ bends.transpose(0, 2, 1)
    return unit * blocks


def _window(pixel: NDArray[np.int_], reach: int, shape: tuple[int, ...]) -> tuple:
    """Index a square about a pixel, mirrored where it leaves the image."""
    start, stop = pixel - reach, pixel + reach + 1
    if (start >= 0).all() and (stop <= shape).all():
        return slice(start[0], stop[0]), slice(start[1], stop[1])
    indices = []
    for first, last, count in zip(start, stop, shape, strict=True):
        index = np.arange(first, last)
        indices.append((np.abs((index + 0.5 + count) % (2 * count) - count) - 0.5).astype(int))
    return np.ix_(*indices)
