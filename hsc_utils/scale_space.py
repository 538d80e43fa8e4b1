"""Laplacian of Gaussian: scikit-image's `blob_log` for 2-D images, many times faster."""

import math
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, spatial
from skimage.feature.blob import _blob_overlap
from skimage.util import img_as_float

from hsc_utils import band_limited

_SMALL = 500_000  # pixels times sigma; below, scipy's own filters take less time
_MOST_CANDIDATES = 300_000  # before anything is decided; a hundred bytes each
_MOST_PAIRS = 2_000_000  # of neighbouring blobs; a hundred bytes each


def blob_log(
    image: np.ndarray,
    min_sigma: float = 1,
    max_sigma: float = 50,
    num_sigma: int = 10,
    threshold: float | None = 0.2,
    overlap: float = 0.5,
    log_scale: bool = False,
    *,
    threshold_rel: float | None = None,
    exclude_border: int | tuple[int, int] | bool = False,
    exact: bool = False,
) -> np.ndarray:
    """Find bright blobs by the Laplacian of Gaussian, as `skimage.feature.blob_log` does.

    Parameters
    ----------
    image : array (Y, X)
        Grayscale, bright blobs on a dark ground. Integers are scaled to [0, 1] by their
        type, floats are taken as they are.
    min_sigma, max_sigma : float
        Smallest and largest standard deviation of the Gaussian, in px.
    num_sigma : int
        Number of scales between them.
    threshold : float or None
        Smallest response of a blob, in units of the image's intensity; None for the
        image's lowest response.
    overlap : float
        Of two blobs whose areas overlap by a larger fraction, the smaller is dropped.
    log_scale : bool
        Whether scales are spaced evenly in their logarithm.
    threshold_rel : float or None
        Smallest response as a fraction of the largest; the larger threshold counts.
    exclude_border : int, tuple of int or False
        Width in px of the margin in which blobs are dropped.
    exact : bool
        Filter every scale at full resolution with scipy's own kernels: bit for bit
        scikit-image's detections, in about its time. The default agrees with it except
        where responses are equal but for rounding: along the straight edges of a mask.
        Images so small that this costs less are always filtered so.

    Returns
    -------
    array (N, 3)
        y, x, sigma of each blob in px, strongest response first; its radius is about
        1.41 sigma. float64 (float32 for a float32 image).

    Raises
    ------
    ValueError
        If the image or a setting is impossible, or so much passes the threshold that
        memory would run out.
    """
    image, sigmas = _checked(image, min_sigma, max_sigma, num_sigma, threshold, log_scale)
    margin = _margin(exclude_border)
    plain = exact or image.size * sigmas[-1] < _SMALL
    find = _maxima if plain else band_limited.maxima
    try:
        peaks, responses = find(image, sigmas, threshold, threshold_rel, _MOST_CANDIDATES)
    except OverflowError:
        raise ValueError(
            f"More than {_MOST_CANDIDATES:,} maxima pass threshold {threshold}: noise, not blobs. "
            "Raise threshold or min_sigma."
        ) from None
    inside = np.all((peaks[:, :2] >= margin) & (peaks[:, :2] < image.shape - margin), axis=1)
    peaks, responses = peaks[inside], responses[inside]
    # scikit-image lists peaks in reading order, then sorts them stably by response; the
    # order decides which of two overlapping blobs of equal sigma stays
    order = np.lexsort((peaks[:, 2], peaks[:, 1], peaks[:, 0], -responses))
    peaks = peaks[order]
    blobs = np.column_stack([peaks[:, :2], sigmas[peaks[:, 2]]]).astype(_float_type(image))
    return _prune(blobs, overlap)


def _checked(
    image, min_sigma, max_sigma, num_sigma, threshold, log_scale
) -> tuple[np.ndarray, np.ndarray]:
    """Return the image as scikit-image would take it, and the list of sigmas."""
    image = np.asarray(image)
    if image.ndim != 2 or image.size == 0:
        raise ValueError(f"image must be 2-D and not empty (Y, X), but its shape is {image.shape}.")
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise ValueError("image holds NaN or infinite values; replace them before the search.")
    if image.dtype.kind not in "fu":
        image = img_as_float(image)
    if not 0 < min_sigma <= max_sigma:
        raise ValueError(
            f"min_sigma and max_sigma must satisfy 0 < min_sigma <= max_sigma, "
            f"but are {min_sigma} and {max_sigma}."
        )
    if threshold is not None and not threshold >= 0:
        raise ValueError(
            f"threshold cannot be negative, but is {threshold}; None takes all maxima."
        )
    if num_sigma < 1:
        raise ValueError(f"num_sigma must be at least 1, but is {num_sigma}.")
    # from arrays, as scikit-image does: rounding differs from that of plain numbers
    low, high = (np.full(1, sigma, _float_type(image)) for sigma in (min_sigma, max_sigma))
    if log_scale:
        return image, np.logspace(np.log10(low), np.log10(high), num_sigma)[:, 0]
    return image, np.linspace(low, high, num_sigma)[:, 0]


def _float_type(image: NDArray) -> type:
    """Return the type in which scikit-image filters an image."""
    single = image.dtype.kind == "f" and image.dtype.itemsize <= 4
    return np.float32 if single else np.float64


def _margin(exclude_border: int | tuple[int, int] | bool) -> np.ndarray:
    margin = np.array(exclude_border)
    if exclude_border is True or margin.dtype.kind not in "bi" or margin.shape not in ((), (2,)):
        raise ValueError(
            f"exclude_border must be a margin in px, one for y and one for x, or False, but is "
            f"{exclude_border!r}."
        )
    if (margin < 0).any():
        raise ValueError(f"exclude_border cannot be negative, but is {exclude_border}.")
    return np.broadcast_to(margin.astype(int), 2)


def _maxima(
    image: NDArray,
    sigmas: NDArray,
    threshold: float | None,
    threshold_rel: float | None,
    most: int,
) -> tuple[NDArray, NDArray]:
    """Do at full resolution, with scipy's filters, what `band_limited.maxima` does."""
    image = img_as_float(image).astype(_float_type(image), copy=False)

    def respond(sigma: float) -> NDArray:
        return -ndimage.gaussian_laplace(image, sigma) * np.asarray(sigma**2, image.dtype)

    with ThreadPoolExecutor(band_limited.WORKERS) as pool:
        planes = list(pool.map(respond, sigmas))
    # scikit-image finds nothing where all responses are equal
    lowest, highest = min(map(np.min, planes)), max(map(np.max, planes))
    if lowest == highest:
        return np.empty((0, 3), int), np.empty(0)
    threshold = lowest if threshold is None else threshold
    if threshold_rel is not None:
        threshold = max(threshold, threshold_rel * highest)
    ceilings = [cv2.dilate(plane, np.ones((3, 3), np.uint8)) for plane in planes]
    found, responses = [], []
    for scale, plane in enumerate(planes):
        ceiling = np.maximum.reduce(ceilings[max(scale - 1, 0) : scale + 2])
        positions = np.argwhere((plane == ceiling) & (plane > threshold))
        found.append(np.column_stack([positions, np.full(len(positions), scale)]))
        responses.append(plane[tuple(positions.T)])
        if sum(map(len, found)) > most:
            raise OverflowError
    return np.concatenate(found), np.concatenate(responses)


def _prune(blobs: np.ndarray, overlap: float) -> np.ndarray:
    """Drop the smaller of two blobs that overlap too much, in scikit-image's order."""
    if len(blobs) == 0:
        return np.empty((0, 3))
    tree = spatial.cKDTree(blobs[:, :2])
    distance = 2 * blobs[:, 2].max() * math.sqrt(2)
    if (tree.count_neighbors(tree, distance) - len(blobs)) / 2 > _MOST_PAIRS:
        raise ValueError(
            f"{len(blobs):,} blobs pass the threshold, too close together to be blobs. Raise "
            "threshold or min_sigma, or lower max_sigma."
        )
    # the survivors of a chain of overlaps depend on the order of pairs: scikit-image's is
    # that of a set of pairs, and so is this
    pairs = np.array(list(tree.query_pairs(distance)), dtype=int).reshape(-1, 2)
    first, second = blobs[pairs[:, 0]], blobs[pairs[:, 1]]
    shared = overlaps(first, second)
    # where rounding decides, let scikit-image's own arithmetic round
    for place in np.flatnonzero((np.abs(shared - overlap) < 1e-5) & (shared != 0) & (shared != 1)):
        shared[place] = _blob_overlap(first[place], second[place])
    pairs = pairs[shared > overlap]
    sigmas = blobs[:, 2].tolist()
    alive = [True] * len(blobs)
    for first, second in pairs.tolist():
        if alive[first] and alive[second]:
            alive[second if sigmas[first] > sigmas[second] else first] = False
    return blobs[alive]


def overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the shared area of pairs of blobs as a fraction of the smaller's."""
    larger = np.maximum(first[:, 2], second[:, 2])
    r1, r2 = 1.0, np.minimum(first[:, 2], second[:, 2]) / larger
    unit = (larger * math.sqrt(2))[:, None]
    d = np.sqrt(np.sum((second[:, :2] / unit - first[:, :2] / unit) ** 2, axis=1))
    inside, apart = d <= r1 - r2, d > r1 + r2
    d = np.where(inside | apart, 1.0, d)
    angle1 = np.arccos(np.clip((d**2 + r1**2 - r2**2) / (2 * d * r1), -1, 1))
    angle2 = np.arccos(np.clip((d**2 + r2**2 - r1**2) / (2 * d * r2), -1, 1))
    kite = np.sqrt(np.abs((-d + r2 + r1) * (d - r2 + r1) * (d + r2 - r1) * (d + r2 + r1)))
    lens = (r1**2 * angle1 + r2**2 * angle2 - 0.5 * kite) / (np.pi * r2**2)
    # 0 and 1 are certain, what is between them may be off by rounding
    return np.where(inside, 1.0, np.where(apart, 0.0, np.clip(lens, 1e-6, 1 - 1e-6)))
