"""Laplacian of Gaussian: scikit-image's `blob_log` for 2-D images, about a hundred times faster.

One DCT-II of the image stands for its mirrored extension, which is what scipy's filters
see at the border. The spectrum is multiplied by the response of scipy's own truncated
kernels and cropped to the band each sigma leaves, so that each scale is sampled on as
coarse a grid as it needs. Maxima found there are settled at full resolution by
band-limited interpolation; scikit-image's order and pruning close the work.
"""

import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
from scipy import fft, ndimage, spatial
from skimage.util import img_as_float

_SAMPLES_PER_SIGMA = 3.5  # grid points a sigma; the filtered image is band-limited well below
_SLACK = 1.3  # curvature varies within a grid cell
_TIE = 2e-6  # responses closer than this, relative to the highest, count as equal
_CELLS_AT_ONCE = 20_000
_TAPS = 4  # half-width of the interpolation kernel, in grid points
_MOST_CANDIDATES = 1_000_000  # 2-D maxima above the threshold, over all scales
_MOST_PAIRS = 5_000_000  # neighbouring blobs to prune; a few hundred bytes each
_WORKERS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


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
        Smallest response of a blob, in units of the image's intensity.
    overlap : float
        Of two blobs whose areas overlap by a larger fraction, the smaller is dropped.
    log_scale : bool
        Whether scales are spaced evenly in their logarithm.
    threshold_rel : float or None
        Smallest response as a fraction of the largest; the larger threshold counts.
    exclude_border : int, tuple of int or False
        Width in px of the margin in which blobs are dropped.
    exact : bool
        Filter every scale at full resolution with scipy's own kernels: the same
        detections as scikit-image, several times faster than it.

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
    image, sigmas = _checked(image, min_sigma, max_sigma, num_sigma, log_scale)
    margin = _margin(exclude_border)
    find = _maxima_at_full_resolution if exact else _maxima_on_grids
    lower = -math.inf if threshold is None else threshold
    peaks, responses = find(image, sigmas, lower, threshold_rel or 0.0)

    inside = np.all((peaks[:, :2] >= margin) & (peaks[:, :2] < image.shape - margin), axis=1)
    peaks, responses = peaks[inside], responses[inside]
    # scikit-image lists peaks in reading order, then sorts them stably by response; the
    # order decides which of two overlapping blobs of equal sigma stays
    order = np.lexsort((peaks[:, 2], peaks[:, 1], peaks[:, 0], -responses))
    peaks = peaks[order]
    blobs = np.column_stack([peaks[:, :2], sigmas[peaks[:, 2]]]).astype(image.dtype)
    return _prune(blobs, overlap)


def _checked(image, min_sigma, max_sigma, num_sigma, log_scale) -> tuple[np.ndarray, np.ndarray]:
    """Return the image as scikit-image would take it, and the list of sigmas."""
    image = np.asarray(image)
    if image.ndim != 2 or image.size == 0:
        raise ValueError(f"image must be 2-D and not empty (Y, X), but its shape is {image.shape}.")
    image = img_as_float(image)
    image = image.astype(np.float32 if image.dtype.itemsize <= 4 else np.float64, copy=False)
    if not np.isfinite(image).all():
        raise ValueError("image holds NaN or infinite values; replace them before the search.")
    if not 0 < min_sigma <= max_sigma:
        raise ValueError(
            f"min_sigma and max_sigma must satisfy 0 < min_sigma <= max_sigma, "
            f"but are {min_sigma} and {max_sigma}."
        )
    if num_sigma < 1:
        raise ValueError(f"num_sigma must be at least 1, but is {num_sigma}.")
    space = np.geomspace if log_scale else np.linspace
    return image, space(min_sigma, max_sigma, num_sigma)


def _margin(exclude_border: int | tuple[int, int] | bool) -> np.ndarray:
    if exclude_border is True:
        raise ValueError("exclude_border cannot be True; give the margin in px, or False.")
    margin = np.broadcast_to(np.asarray(exclude_border, dtype=int), 2)
    if (margin < 0).any():
        raise ValueError(f"exclude_border cannot be negative, but is {exclude_border}.")
    return margin


# --- full resolution -------------------------------------------------------------------


def _maxima_at_full_resolution(image, sigmas, threshold, threshold_rel):
    """Return maxima (N, 3: y, x, scale index) over 3×3×3 neighbours, and their responses."""

    def respond(sigma: float) -> np.ndarray:
        return -ndimage.gaussian_laplace(image, sigma) * np.asarray(sigma**2, image.dtype)

    with ThreadPoolExecutor(_WORKERS) as pool:
        planes = list(pool.map(respond, sigmas))
    if all(np.ptp(plane) == 0 and plane[0, 0] == planes[0][0, 0] for plane in planes):
        return np.empty((0, 3), int), np.empty(0, image.dtype)
    threshold = max(threshold, min(plane.min() for plane in planes))
    if threshold_rel:
        threshold = max(threshold, threshold_rel * max(plane.max() for plane in planes))
    highest = [cv2.dilate(plane, np.ones((3, 3), np.uint8)) for plane in planes]
    found, responses = [], []
    for scale, plane in enumerate(planes):
        neighbours = np.maximum.reduce(highest[max(scale - 1, 0) : scale + 2])
        positions = np.argwhere((plane == neighbours) & (plane > threshold))
        _check_count(len(positions) + sum(map(len, responses)), threshold)
        found.append(np.column_stack([positions, np.full(len(positions), scale)]))
        responses.append(plane[tuple(positions.T)])
    return np.concatenate(found), np.concatenate(responses)


# --- reduced grids ---------------------------------------------------------------------


@dataclass(frozen=True)
class _Plane:
    """One scale of the filtered image, sampled on a grid that its band allows.

    Grid point j lies at pixel ``(j + 0.5) * spacing - 0.5``.
    """

    samples: np.ndarray
    spacing: np.ndarray

    def at(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Interpolate at pixels: rows (N, P) and columns (N, P) give (N, P, P)."""
        (row_index, row_weights), (column_index, column_weights) = (
            self._taps(rows, axis=0),
            self._taps(columns, axis=1),
        )
        block = self.samples[row_index[:, :, None], column_index[:, None, :]]
        return row_weights @ block @ column_weights.transpose(0, 2, 1)

    def _taps(self, pixels: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the grid points that a row of pixels needs (N, B), and weights (N, P, B)."""
        count, spacing = self.samples.shape[axis], self.spacing[axis]
        position = (pixels + 0.5) / spacing - 0.5
        width = 2 * _TAPS + math.ceil((pixels.shape[1] - 1) / spacing)
        index = np.floor(position[:, :1]).astype(int) - _TAPS + 1 + np.arange(width)
        distance = position[:, :, None] - index[:, None, :]
        window = np.exp(2.4 * _TAPS * (np.sqrt(np.maximum(1 - (distance / _TAPS) ** 2, 0)) - 1))
        weights = np.sinc(distance) * window * (np.abs(distance) < _TAPS)
        # beyond the border the image is mirrored, again and again
        index = np.abs((index + 0.5 + count) % (2 * count) - count) - 0.5
        weights /= weights.sum(axis=2, keepdims=True)
        return index.astype(int), weights.astype(self.samples.dtype)


def _maxima_on_grids(image, sigmas, threshold, threshold_rel):
    """Do what `_maxima_at_full_resolution` does, from a grid for each scale."""
    planes = list(_filtered(image, sigmas))
    highest = max(float(plane.samples.max()) for plane in planes)
    threshold = max(threshold, min(float(plane.samples.min()) for plane in planes))
    if threshold_rel:
        threshold = max(threshold, threshold_rel * highest)
    tie = _TIE * max(highest, 0.0)
    found, responses = [], []
    for scale, plane in enumerate(planes):
        neighbours = planes[max(scale - 1, 0) : scale] + planes[scale + 1 : scale + 2]
        cells = _candidates(plane, neighbours, threshold, tie)
        _check_count(len(cells), threshold)
        positions, values = _settled(plane, cells, image.shape, threshold, tie)
        for neighbour in neighbours:
            higher = neighbour.at(*_around(positions, 1)).max(axis=(1, 2))
            keep = values >= higher - tie
            positions, values = positions[keep], values[keep]
        found.append(np.column_stack([positions, np.full(len(positions), scale)]))
        responses.append(values)
        _check_count(sum(map(len, responses)), threshold)
    responses = np.concatenate(responses)
    return np.concatenate(found), np.round(responses / (10 * tie)) if tie else responses


def _candidates(plane, neighbours, threshold, tie) -> np.ndarray:
    """Return the grid points (N, 2) around which a pixel may be a maximum over 3×3×3.

    Conditions that every maximum fulfils, with some slack: the response is near the
    threshold, and not below that of the neighbouring scales all around; and the slope is
    no steeper than the curvature allows. Along a ridge, where curvature is small, pixels
    become maxima where the crest happens to pass through their centre, so the slope
    there is measured against the curvature across as well, over one pixel.
    """
    samples = plane.samples
    # a grid point lies up to 0.2 sigma beside its maximum, and so up to a tenth below it
    likely = samples >= threshold - 0.15 * abs(threshold)
    for neighbour in neighbours:
        resampled = cv2.resize(
            neighbour.samples, samples.shape[::-1], interpolation=cv2.INTER_CUBIC
        )
        excess = cv2.dilate(samples - resampled, np.ones((3, 3), np.uint8))
        likely &= excess >= -0.002 * np.abs(samples) - tie
    y, x = np.nonzero(likely)
    mirrored = cv2.copyMakeBorder(samples, 1, 1, 1, 1, cv2.BORDER_REFLECT).astype(np.float64)
    above, below, left, right = (
        mirrored[y, x + 1],
        mirrored[y + 2, x + 1],
        mirrored[y + 1, x],
        mirrored[y + 1, x + 2],
    )
    twice = 2 * mirrored[y + 1, x + 1]
    slope_y, slope_x = (below - above) / 2, (right - left) / 2
    bend_yy, bend_xx = below + above - twice, right + left - twice
    bend_xy = (
        mirrored[y, x] + mirrored[y + 2, x + 2] - mirrored[y, x + 2] - mirrored[y + 2, x]
    ) / 4
    angle = 0.5 * np.arctan2(2 * bend_xy, bend_xx - bend_yy)
    spread = np.hypot((bend_xx - bend_yy) / 2, bend_xy)
    centre = (bend_xx + bend_yy) / 2
    bends = np.abs([centre + spread, centre - spread])
    slopes = np.abs(
        [
            slope_x * np.cos(angle) + slope_y * np.sin(angle),
            slope_y * np.cos(angle) - slope_x * np.sin(angle),
        ]
    )
    pixel = 1 / plane.spacing.min()
    allowed = _SLACK * ((0.71 + 1.1 * pixel) * bends + 0.57 * pixel * bends[::-1]) + tie
    return np.column_stack([y, x])[(slopes <= allowed).all(axis=0)]


def _settled(plane, cells, shape, threshold, tie):
    """Return the maxima over 3×3 pixels (N, 2) around grid points, and their responses."""
    reach = math.ceil(plane.spacing.max() / 2) + 1
    positions, values = [np.empty((0, 2), int)], [np.empty(0, np.float32)]
    for start in range(0, len(cells), _CELLS_AT_ONCE):
        centres = (cells[start : start + _CELLS_AT_ONCE] + 0.5) * plane.spacing - 0.5
        rows, columns = _around(np.rint(centres).astype(int), reach)
        patch = plane.at(rows, columns)
        inner = patch[:, 1:-1, 1:-1]
        around = np.maximum(np.maximum(patch[:, :-2], patch[:, 1:-1]), patch[:, 2:])
        around = np.maximum(np.maximum(around[..., :-2], around[..., 1:-1]), around[..., 2:])
        cell, row, column = np.nonzero((inner >= around - tie) & (inner > threshold))
        positions.append(np.column_stack([rows[cell, row + 1], columns[cell, column + 1]]))
        values.append(inner[cell, row, column])
    positions, first = np.unique(np.concatenate(positions), axis=0, return_index=True)
    inside = np.all((positions >= 0) & (positions < shape), axis=1)
    return positions[inside], np.concatenate(values)[first][inside]


def _around(positions: np.ndarray, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns (N, 2 reach + 1) about pixels, beyond the border as well."""
    steps = np.arange(-reach, reach + 1)
    return positions[:, :1] + steps, positions[:, 1:] + steps


def _filtered(image: np.ndarray, sigmas: np.ndarray) -> Iterator[_Plane]:
    """Yield the scale-normalised Laplacian of Gaussian of an image, a plane a sigma."""
    shape = np.array(image.shape)
    grids = [np.ceil(shape / max(1.0, sigma / _SAMPLES_PER_SIGMA)).astype(int) for sigma in sigmas]
    height, width = grids[0]
    spectrum = fft.dct(image.astype(np.float32), axis=1, norm="ortho", workers=_WORKERS)
    spectrum = fft.dct(spectrum[:, :width], axis=0, norm="ortho", workers=_WORKERS)[:height]
    for sigma, grid in zip(sigmas, grids, strict=True):
        (smooth_y, bend_y), (smooth_x, bend_x) = (
            _response(float(sigma), length, count)
            for length, count in zip(image.shape, grid, strict=True)
        )
        scale = -(sigma**2) * math.sqrt(grid.prod() / shape.prod())
        response = np.outer(scale * bend_y, smooth_x) + np.outer(scale * smooth_y, bend_x)
        filtered = spectrum[: grid[0], : grid[1]] * response.astype(np.float32)
        samples = fft.idctn(filtered, norm="ortho", workers=_WORKERS, overwrite_x=True)
        yield _Plane(samples, shape / grid)


def _response(sigma: float, length: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the frequency response of scipy's truncated Gaussian and its second derivative.

    Truncation at 4 sigma leaves an offset of up to 3 % of a blob's response, which moves
    blobs across the threshold; the analytic Gaussian does not have it.
    """
    radius = int(4 * sigma + 0.5)
    x = np.arange(-radius, radius + 1)
    smooth = np.exp(-0.5 * (x / sigma) ** 2)
    smooth /= smooth.sum()
    kernels = np.zeros((2, 2 * length))
    np.add.at(kernels, (0, x % (2 * length)), smooth)
    np.add.at(kernels, (1, x % (2 * length)), smooth * (x**2 / sigma**4 - 1 / sigma**2))
    smooth_response, bend_response = fft.rfft(kernels, axis=1).real[:, :count]
    return smooth_response, bend_response


# --- pruning ---------------------------------------------------------------------------


def _check_count(count: int, threshold: float) -> None:
    if count > _MOST_CANDIDATES:
        raise ValueError(
            f"More than {_MOST_CANDIDATES:,} maxima pass threshold {threshold:g}: noise, not "
            "blobs. Raise threshold (or min_sigma)."
        )


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
    pairs = pairs[_overlaps(blobs[pairs[:, 0]], blobs[pairs[:, 1]]) > overlap]
    sigmas = blobs[:, 2].tolist()
    alive = [True] * len(blobs)
    for first, second in pairs.tolist():
        if alive[first] and alive[second]:
            alive[second if sigmas[first] > sigmas[second] else first] = False
    return blobs[alive]


def _overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the shared area of pairs of blobs as a fraction of the smaller's."""
    larger = np.maximum(first[:, 2], second[:, 2])
    r1, r2 = 1.0, np.minimum(first[:, 2], second[:, 2]) / larger
    d = np.hypot(*(first - second)[:, :2].T) / (larger * math.sqrt(2))
    inside, apart = d <= r1 - r2, d > r1 + r2
    d = np.where(inside | apart, 1.0, d)
    angle1 = np.arccos(np.clip((d**2 + r1**2 - r2**2) / (2 * d * r1), -1, 1))
    angle2 = np.arccos(np.clip((d**2 + r2**2 - r1**2) / (2 * d * r2), -1, 1))
    kite = np.sqrt(np.abs((-d + r2 + r1) * (d - r2 + r1) * (d + r2 - r1) * (d + r2 + r1)))
    lens = (r1**2 * angle1 + r2**2 * angle2 - 0.5 * kite) / (np.pi * r2**2)
    return np.where(inside, 1.0, np.where(apart, 0.0, lens))
