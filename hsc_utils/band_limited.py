"""Scale-space maxima of the Laplacian of Gaussian from reduced grids, settled exactly.

One DCT-II of the image stands for its mirrored extension, which is what scipy's filters
see at the border. The spectrum is multiplied by the response of scipy's own truncated
kernels and cropped to the band a sigma leaves, so that each scale is sampled on as coarse
a grid as it needs. Pixels that may be maxima are found there by interpolation; what is too
close to call is decided by scipy's kernels themselves, at that pixel.
"""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft
from skimage.util import img_as_float32

from hsc_utils.gaussian_kernels import kernels, responses_at

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
