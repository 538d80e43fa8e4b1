"""Laplacian of Gaussian: scikit-image's `blob_log` for 2-D images, many times faster."""

import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage, spatial
from skimage.feature.blob import _blob_overlap
from skimage.util import img_as_float, img_as_float32

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
    find = _maxima if plain else maxima
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

    with ThreadPoolExecutor(WORKERS) as pool:
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


_SAMPLES_PER_SIGMA = 4.0  # grid points a sigma
_TAPS = 4  # half-width of the interpolation kernel, in grid points
_WINDOW = 2.4 * _TAPS  # its steepness
_DOUBT = 1e-4  # what interpolation may be wrong by, as a share of the highest response
_TIE = 1e-11  # responses closer than this, relative to the highest, are equal
_SLACK = 1.3  # curvature varies within a grid cell
_AT_ONCE = 8192  # grid cells interpolated together, to bound memory
_SQUARE = np.ones((3, 3), np.uint8)
WORKERS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@dataclass(frozen=True)
class Plane:
    """One scale of the filtered image, sampled on a grid that its band allows.

    Grid point j lies at pixel ``(j + 0.5) * spacing - 0.5``.
    """

    sigma: float
    samples: NDArray[np.float32]
    spacing: NDArray[np.float64]

    def at(self, rows: NDArray[np.int_], columns: NDArray[np.int_]) -> NDArray[np.float32]:
        """Interpolate at blocks of pixels: rows (N, P) and columns (N, P) give (N, P, P)."""
        row_index, row_weights = self._taps(rows, axis=0)
        column_index, column_weights = self._taps(columns, axis=1)
        block = self.samples[row_index[:, :, None], column_index[:, None, :]]
        return row_weights @ block @ column_weights.transpose(0, 2, 1)

    def _taps(self, pixels: NDArray[np.int_], axis: int) -> tuple[NDArray, NDArray]:
        """Return the grid points a run of pixels needs (N, B), and their weights (N, P, B)."""
        count, spacing = self.samples.shape[axis], self.spacing[axis]
        position = ((pixels + 0.5) / spacing - 0.5).astype(np.float32)
        width = 2 * _TAPS + math.ceil((pixels.shape[1] - 1) / spacing)
        index = np.floor(position[:, :1]).astype(int) - _TAPS + 1 + np.arange(width)
        distance = (position[:, :, None] - index[:, None, :]).astype(np.float32)
        inside = np.maximum(1 - (distance / _TAPS) ** 2, 0)
        weights = np.sinc(distance) * np.exp(_WINDOW * (np.sqrt(inside) - 1)) * (inside > 0)
        weights /= weights.sum(axis=2, keepdims=True)
        # beyond the border the image is mirrored, again and again
        mirrored = np.abs((index + 0.5 + count) % (2 * count) - count) - 0.5
        return mirrored.astype(int), weights


def filtered(image: NDArray, sigmas: Sequence[float]) -> Iterator[Plane]:
    """Yield the scale-normalised negative Laplacian of Gaussian of an image, by sigma."""
    shape = np.array(image.shape)
    grids = []
    for sigma in sigmas:
        reduction = sigma / _SAMPLES_PER_SIGMA
        grids.append(np.ceil(shape / reduction).astype(int) if reduction >= 2 else shape)
    height, width = np.max(grids, axis=0)
    spectrum = fft.dct(img_as_float32(image), axis=1, norm="ortho", workers=WORKERS)
    spectrum = fft.dct(spectrum[:, :width], axis=0, norm="ortho", workers=WORKERS)[:height]
    for sigma, grid in zip(sigmas, grids, strict=True):
        (smooth_y, bend_y), (smooth_x, bend_x) = (
            _responses(float(sigma), length)[:, :count]
            for length, count in zip(image.shape, grid, strict=True)
        )
        scale = -(sigma**2) * math.sqrt(grid.prod() / shape.prod())
        part = spectrum[: grid[0], : grid[1]]
        product = part * np.float32(scale * bend_y)[:, None] * np.float32(smooth_x)
        product += part * np.float32(scale * smooth_y)[:, None] * np.float32(bend_x)
        samples = fft.idctn(product, norm="ortho", workers=WORKERS, overwrite_x=True)
        yield Plane(float(sigma), samples, shape / grid)


def _responses(sigma: float, length: int) -> NDArray[np.float64]:
    """Return the frequency responses (2, length + 1) of scipy's truncated kernels.

    Truncation at 4 sigma leaves an offset of up to 3 % of a blob's response, which moves
    blobs across the threshold; the analytic Gaussian does not have it.
    """
    offsets, smooth, bend = kernels(sigma)
    padded = np.zeros((2, 2 * length))
    np.add.at(padded, (slice(None), offsets % (2 * length)), np.stack([smooth, bend]))
    return fft.rfft(padded, axis=1).real


def maxima(
    image: NDArray,
    sigmas: NDArray[np.float64],
    threshold: float | None,
    threshold_rel: float | None,
    most: int,
) -> tuple[NDArray[np.int_], NDArray[np.float64]]:
    """Return the maxima over 3×3×3 neighbours (N, 3: y, x, scale), and their responses.

    The image holds floats or unsigned integers; responses come in no particular unit.
    `most` bounds the number of candidates; one more raises an OverflowError.
    """
    planes = list(filtered(image, sigmas))
    highest = max(float(plane.samples.max()) for plane in planes)
    lowest = min(float(plane.samples.min()) for plane in planes)
    doubt, tie = (share * max(abs(highest), abs(lowest)) for share in (_DOUBT, _TIE))
    threshold = lowest if threshold is None else threshold
    if threshold_rel is not None:
        highest = max(responses_at(image, _peak(plane), [plane.sigma]).max() for plane in planes)
        threshold = max(threshold, threshold_rel * highest)
    found, responses = [np.empty((0, 3), int)], [np.empty(0)]
    for scale, plane in enumerate(planes):
        neighbours = planes[max(scale - 1, 0) : scale] + planes[scale + 1 : scale + 2]
        cells = _candidates(plane, neighbours, threshold, doubt)
        if len(cells) + sum(map(len, found)) > most:
            raise OverflowError
        positions, values, margins = _settled(plane, cells, image.shape, threshold, doubt)
        for neighbour in neighbours:
            higher = neighbour.at(*_around(positions, 1)).max(axis=(1, 2))
            margins = np.minimum(margins, values - higher)
        certain = (margins > doubt) & (values > threshold + doubt)
        doubtful = (margins >= -doubt) & (values > threshold - doubt) & ~certain
        values = values.astype(float)
        nearby = [plane.sigma, *(neighbour.sigma for neighbour in neighbours)]
        blocks = responses_at(image, positions[doubtful], nearby)
        values[doubtful] = blocks[:, 0, 1, 1]
        ceilings = blocks.max(axis=(1, 2, 3)) - tie
        certain[doubtful] = values[doubtful] > np.maximum(threshold, ceilings)
        found.append(np.column_stack([positions, np.full(len(positions), scale)])[certain])
        responses.append(values[certain])
    found, responses = np.concatenate(found), np.concatenate(responses)
    # which of two blobs of almost equal response comes first decides which of them stays
    order = np.argsort(responses)
    gaps = np.diff(responses[order], prepend=-math.inf, append=math.inf)
    close = order[np.minimum(gaps[:-1], gaps[1:]) < 2 * doubt]
    for scale in np.unique(found[close, 2]):
        places = close[found[close, 2] == scale]
        exact = responses_at(image, found[places, :2], [planes[scale].sigma], reach=0)
        responses[places] = exact[:, 0, 0, 0]
    return found, np.round(responses / tie) if tie else responses


def _peak(plane: Plane) -> NDArray[np.int_]:
    """Return the pixel (1, 2) nearest to the highest grid point of a plane."""
    place = np.unravel_index(plane.samples.argmax(), plane.samples.shape)
    return np.rint((np.array([place]) + 0.5) * plane.spacing - 0.5).astype(int)


def _candidates(
    plane: Plane, neighbours: Sequence[Plane], threshold: float, doubt: float
) -> NDArray[np.int_]:
    """Return the grid points (N, 2) around which a pixel may be a maximum over 3×3×3.

    Conditions that every maximum fulfils, with some slack: the response is near the
    threshold, not below that of the neighbouring scales all around, and the slope is no
    steeper than the curvature allows. Along a ridge, where curvature is small, pixels
    become maxima where the crest happens to pass through their centre, so the slope
    there is measured against the curvature across as well, over one pixel.
    """
    samples = plane.samples
    if plane.spacing.max() == 1:
        likely = (samples > threshold - doubt) & (samples >= cv2.dilate(samples, _SQUARE) - doubt)
    else:
        # a grid point lies up to 0.2 sigma beside its maximum, and so up to a tenth below it
        likely = samples > threshold - 0.15 * abs(threshold) - doubt
    for neighbour in neighbours:
        resampled = cv2.resize(
            neighbour.samples, samples.shape[::-1], interpolation=cv2.INTER_CUBIC
        )
        excess = cv2.dilate(samples - resampled, _SQUARE)
        likely &= excess >= -0.002 * np.abs(samples) - doubt
    points = np.argwhere(likely)
    if plane.spacing.max() == 1:
        return points
    padded = cv2.copyMakeBorder(samples, 1, 1, 1, 1, cv2.BORDER_REFLECT)
    y, x = points.T
    f = {(i, j): padded[y + 1 + i, x + 1 + j] for i in (-1, 0, 1) for j in (-1, 0, 1)}
    slope_y, slope_x = (f[1, 0] - f[-1, 0]) / 2, (f[0, 1] - f[0, -1]) / 2
    bend_y, bend_x = f[1, 0] + f[-1, 0] - 2 * f[0, 0], f[0, 1] + f[0, -1] - 2 * f[0, 0]
    twist = (f[-1, -1] + f[1, 1] - f[-1, 1] - f[1, -1]) / 4
    # curvatures and slopes along the two principal directions
    angle = 0.5 * np.arctan2(2 * twist, bend_x - bend_y)
    mean, spread = (bend_x + bend_y) / 2, np.hypot((bend_x - bend_y) / 2, twist)
    sine, cosine = np.sin(angle), np.cos(angle)
    bends = np.abs([mean + spread, mean - spread])
    slopes = np.abs([slope_x * cosine + slope_y * sine, slope_y * cosine - slope_x * sine])
    pixel = 1 / plane.spacing.min()
    allowed = _SLACK * ((0.71 + 1.1 * pixel) * bends + 0.57 * pixel * bends[::-1]) + doubt
    return points[(slopes <= allowed).all(axis=0)]


def _settled(
    plane: Plane, cells: NDArray[np.int_], shape: tuple[int, ...], threshold: float, doubt: float
) -> tuple[NDArray[np.int_], NDArray[np.float32], NDArray[np.float32]]:
    """Return the pixels (N, 2) around grid points that may be maxima over 3×3 pixels.

    With them their responses, and by how much each exceeds its highest neighbour.
    """
    reach = math.ceil(plane.spacing.max() / 2) + 1
    positions, values = [np.empty((0, 2), int)], [np.empty(0, np.float32)]
    margins = [np.empty(0, np.float32)]
    for start in range(0, len(cells), _AT_ONCE):
        centres = (cells[start : start + _AT_ONCE] + 0.5) * plane.spacing - 0.5
        rows, columns = _around(np.rint(centres).astype(int), reach)
        patch = plane.at(rows, columns)
        inner = patch[:, 1:-1, 1:-1]
        across = np.maximum(patch[:, :, :-2], patch[:, :, 2:])
        around = np.maximum(across, patch[:, :, 1:-1])
        around = np.maximum(around[:, :-2], around[:, 2:])
        margin = inner - np.maximum(around, across[:, 1:-1])
        cell, row, column = np.nonzero((margin >= -doubt) & (inner > threshold - doubt))
        positions.append(np.column_stack([rows[cell, row + 1], columns[cell, column + 1]]))
        values.append(inner[cell, row, column])
        margins.append(margin[cell, row, column])
    positions, first = np.unique(np.concatenate(positions), axis=0, return_index=True)
    inside = np.all((positions >= 0) & (positions < shape), axis=1)
    kept = first[inside]
    return positions[inside], np.concatenate(values)[kept], np.concatenate(margins)[kept]


def _around(positions: NDArray[np.int_], reach: int) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
    """Return rows and columns (N, 2 reach + 1) about pixels, beyond the border as well."""
    steps = np.arange(-reach, reach + 1)
    return positions[:, :1] + steps, positions[:, 1:] + steps


_PIXELS_AT_ONCE = 1_000_000  # pixels filtered together, to bound memory


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
    at_once = max(1, _PIXELS_AT_ONCE // (2 * radius + 1) ** 2)
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
