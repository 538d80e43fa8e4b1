"""Laplacian of Gaussian: scikit-image's `blob_log` for 2-D images, many times faster.

Every scale is filtered by its frequencies and sampled only as densely as it needs. Maxima are
interpolated; where that leaves a doubt, scipy's own kernels decide, pixel by pixel.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from joblib import cpu_count
from numpy.typing import NDArray
from scipy import fft, spatial
from skimage import feature
from skimage.feature.blob import _blob_overlap
from skimage.util import img_as_float, img_as_float32

from hsc_utils.detection.checks import as_array, check_numbers, check_rules

MOST_CANDIDATES = 300_000  # before anything is decided; a hundred bytes each
MOST_PAIRS = 2_000_000  # of neighbouring blobs; a hundred bytes each
MOST_SCALES = 1000
MOST_PIXELS = 2**28  # of the image with the widest kernel's margin around it
HIGHEST = 1e30  # intensity; sums of higher ones leave single precision
SAMPLES_PER_SIGMA = 4.0  # grid points a sigma
FEWEST_PIXELS = 1.5  # a grid point; with fewer, the grid of all pixels is as fast
TAPS = 4  # half-width of the interpolation kernel, in grid points
STEEPNESS = 2.4 * TAPS  # of that kernel's window
DOUBT = 1e-4  # what interpolation may be wrong by, as a share of the highest response
TIE = 1e-11  # responses closer than this, relative to the highest, are equal
SLACK = 1.3  # curvature varies within a grid cell
LAG = 0.005  # what cubic interpolation of a neighbouring scale may be wrong by, relatively
AT_ONCE = 8192  # grid points looked around together, to bound memory
PIXELS_AT_ONCE = 1_000_000  # pixels filtered together, likewise
SQUARE = np.ones((3, 3), np.uint8)
CORES = cpu_count()


def blob_log(
    image: NDArray,
    min_sigma: float = 1,
    max_sigma: float = 50,
    num_sigma: int = 10,
    threshold: float = 0.2,
    overlap: float = 0.5,
    log_scale: bool = False,
    *,
    above: float = 0,
    exact: bool = False,
) -> NDArray:
    """Find bright blobs by the Laplacian of Gaussian, as `skimage.feature.blob_log` does.

    Parameters
    ----------
    image : array (Y, X)
        Grayscale, bright blobs on a dark ground; integers are scaled to [0, 1] by their type.
    min_sigma, max_sigma, num_sigma, log_scale
        Standard deviations of the Gaussian in px, their number, and whether they are spaced
        evenly in their logarithm.
    threshold : float
        Smallest response of a blob, in units of the image's intensity.
    overlap : float
        Of two blobs whose areas overlap by a larger fraction, the smaller is dropped.
    above : float
        Leave out blobs of this sigma in px or a smaller one, which costs no time for them; what
        fits such a sigma better than the others is left out as well.
    exact : bool
        Let scikit-image do it, in its time and memory. The default agrees with it except
        where responses are equal but for rounding: along the straight edges of a mask.

    Returns
    -------
    array (N, 3)
        y, x, sigma of each blob in px, strongest response first; its radius is about 1.41 sigma.

    Raises
    ------
    ValueError
        If the image or a setting is impossible, or if memory would run out.
    """
    image = _checked_image(image)
    given = {"min_sigma": min_sigma, "max_sigma": max_sigma, "num_sigma": num_sigma}
    given |= {"threshold": threshold, "overlap": overlap}
    check_numbers(whole=["num_sigma"], **given, above=above)
    rules = {
        "0 < min_sigma <= max_sigma": 0 < min_sigma <= max_sigma,
        "num_sigma >= 1": num_sigma >= 1,
        "a threshold that is not negative": threshold >= 0,
        "0 <= overlap <= 1": 0 <= overlap <= 1,
    }
    check_rules(given, rules)
    padded = math.prod(length + 2 * _margin(max_sigma) for length in image.shape)
    if num_sigma > MOST_SCALES or padded > MOST_PIXELS:
        raise ValueError(
            f"{num_sigma} scales up to max_sigma {max_sigma} on an image of {image.shape} pixels "
            "take more memory than there is. Lower num_sigma or max_sigma."
        )
    if exact:
        found = feature.blob_log(image, **given, log_scale=log_scale)
        return found[found[:, 2] > above]
    # the type in which scikit-image filters, lists sigmas, and returns blobs
    kind = np.float32 if image.dtype.kind == "f" and image.dtype.itemsize <= 4 else np.float64
    if image.dtype not in (np.uint8, np.uint16):
        image = img_as_float(image).astype(kind, copy=False)
    # from arrays, as scikit-image does: rounding differs from that of plain numbers
    low, high = np.full((2, 1), [[min_sigma], [max_sigma]], kind)
    if log_scale:
        sigmas = np.logspace(np.log10(low), np.log10(high), num_sigma)[:, 0]
    else:
        sigmas = np.linspace(low, high, num_sigma)[:, 0]
    peaks, responses = _maxima(image, sigmas, threshold, above)
    # scikit-image lists peaks in reading order, then sorts them stably by response; the
    # order decides which of two overlapping blobs of equal sigma stays
    peaks = peaks[np.lexsort((peaks[:, 2], peaks[:, 1], peaks[:, 0], -responses))]
    return _prune(np.column_stack([peaks[:, :2], sigmas[peaks[:, 2]]]).astype(kind), overlap)


def _checked_image(image: NDArray) -> NDArray:
    """Return the image as an array, or say in a sentence why it is none."""
    image = as_array(image)
    if image.dtype.kind not in "buif" or image.ndim != 2 or image.size == 0:
        found = f"holds {image.dtype} of shape {image.shape}"
        raise ValueError(f"image {found}, but numbers, 2-D (Y, X) and not empty, were expected.")
    # NaN fails the comparison as well
    if image.dtype.kind == "f" and not float(np.abs(image).max()) < HIGHEST:
        raise ValueError(f"image holds NaN, infinite values or some beyond {HIGHEST:g}.")
    return image


def _margin(sigma: float) -> int:
    """Return how many pixels around its own a kernel needs, and one more."""
    return int(4 * sigma + 0.5) + 1


def _maxima(
    image: NDArray, sigmas: NDArray[np.floating], threshold: float, above: float
) -> tuple[NDArray[np.int_], NDArray[np.float64]]:
    """Return the maxima over 3×3×3 neighbours (N, 3: y, x, scale), and responses of no unit."""
    planes = _filtered(image, sigmas)
    highest = max(max(plane.max(), -plane.min()) for plane in planes)
    doubt, tie = DOUBT * float(highest), TIE * float(highest)
    margin = _margin(float(sigmas[-1]))
    padded = cv2.copyMakeBorder(image, *[margin] * 4, cv2.BORDER_REFLECT)
    found, responses = [np.empty((0, 3), int)], [np.empty(0)]
    for scale in np.flatnonzero(sigmas > above).tolist():
        plane = planes[scale]
        nearby = [scale, *(k for k in (scale - 1, scale + 1) if 0 <= k < len(planes))]
        neighbours = [planes[k] for k in nearby[1:]]
        points = _candidates(plane, neighbours, image.shape, threshold, doubt)
        if len(points) + sum(map(len, found)) > MOST_CANDIDATES:
            raise ValueError(
                f"More than {MOST_CANDIDATES:,} maxima pass the threshold. Raise it, or min_sigma."
            )
        pixels, values, margins = _settled(plane, points, image.shape, threshold, doubt)
        for neighbour in neighbours:
            higher = _interpolated(neighbour, image.shape, *_around(pixels, 1)).max(axis=(1, 2))
            margins = np.minimum(margins, values - higher)
        certain = (margins > doubt) & (values > threshold + doubt)
        doubtful = (margins >= -doubt) & (values > threshold - doubt) & ~certain
        blocks = _exact(padded, margin, pixels[doubtful], sigmas[nearby])
        values[doubtful] = blocks[:, 0, 1, 1]
        ceilings = blocks.max(axis=(1, 2, 3)) - tie
        certain[doubtful] = values[doubtful] > np.maximum(threshold, ceilings)
        found.append(np.column_stack([pixels, np.full(len(pixels), scale)])[certain])
        responses.append(values[certain])
    found, responses = np.concatenate(found), np.concatenate(responses)
    # which of two blobs of almost equal response comes first decides which of them stays
    order = np.argsort(responses)
    gaps = np.diff(responses[order], prepend=-math.inf, append=math.inf)
    close = order[np.minimum(gaps[:-1], gaps[1:]) < 2 * doubt]
    for scale in np.unique(found[close, 2]):
        places = close[found[close, 2] == scale]
        blocks = _exact(padded, margin, found[places, :2], sigmas[[scale]], reach=0)
        responses[places] = blocks[:, 0, 0, 0]
    return found, np.round(responses / tie) if tie else responses


def _filtered(image: NDArray, sigmas: NDArray[np.floating]) -> list[NDArray[np.float32]]:
    """Filter an image at every scale: scale-normalised negative Laplacian of Gaussian.

    Each on a grid that its band allows, whose point j lies at pixel (j + 0.5) · spacing - 0.5.
    """
    shape = np.array(image.shape)
    reductions = sigmas / SAMPLES_PER_SIGMA
    reductions[reductions < FEWEST_PIXELS] = 1
    grids = np.ceil(shape / reductions[:, None]).astype(int)
    # a little finer, where that makes the transform faster
    fast = [fft.next_fast_len(length, real=True) for length in grids.ravel().tolist()]
    grids = np.minimum(np.reshape(fast, grids.shape), shape)
    height, width = grids.max(axis=0)
    spectrum = fft.dct(img_as_float32(image), axis=1, norm="ortho", workers=CORES)
    spectrum = fft.dct(spectrum[:, :width], axis=0, norm="ortho", workers=CORES)[:height]
    planes = []
    for sigma, grid in zip(sigmas.tolist(), grids, strict=True):
        (smooth_y, bend_y), (smooth_x, bend_x) = (
            _frequencies(sigma, length)[:, :count]
            for length, count in zip(image.shape, grid, strict=True)
        )
        scale = -(sigma**2) * math.sqrt(grid.prod() / shape.prod())
        part = spectrum[: grid[0], : grid[1]]
        product = part * np.float32(scale * bend_y)[:, None] * np.float32(smooth_x)
        product += part * np.float32(scale * smooth_y)[:, None] * np.float32(bend_x)
        planes.append(fft.idctn(product, norm="ortho", workers=CORES, overwrite_x=True))
    return planes


@lru_cache(maxsize=256)
def _kernels(sigma: float) -> tuple[NDArray[np.int_], NDArray[np.float64], NDArray[np.float64]]:
    """Return offsets, Gaussian and second derivative as `scipy.ndimage` cuts them, at 4 sigma."""
    offsets = np.arange(-int(4 * sigma + 0.5), int(4 * sigma + 0.5) + 1)
    smooth = np.exp(-0.5 / (sigma * sigma) * offsets**2)
    smooth /= smooth.sum()
    return offsets, smooth, smooth * (offsets**2 / sigma**4 - 1 / sigma**2)


def _frequencies(sigma: float, length: int) -> NDArray[np.float64]:
    """Return the frequency responses (2, length + 1) of scipy's truncated kernels.

    The analytic Gaussian's are up to 3 % off, which moves blobs across the threshold.
    """
    offsets, smooth, bend = _kernels(sigma)
    wrapped = np.zeros((2, 2 * length))
    np.add.at(wrapped, (slice(None), offsets % (2 * length)), np.stack([smooth, bend]))
    return fft.rfft(wrapped, axis=1).real


def _candidates(
    plane: NDArray, neighbours: list[NDArray], shape: Sequence[int], threshold: float, doubt: float
) -> NDArray[np.int_]:
    """Return the grid points (N, 2) around which a pixel may be a maximum over 3×3×3.

    There the response is near the threshold, not below that of the neighbouring scales all
    around, and the slope no steeper than the curvature allows, each with some slack.
    """
    every_pixel = plane.shape == shape
    if every_pixel:
        likely = (plane > threshold - doubt) & (plane >= cv2.dilate(plane, SQUARE) - doubt)
    else:
        # a grid point lies up to 0.2 sigma beside its maximum, and so up to a tenth below it
        likely = plane > 0.85 * threshold - doubt
    points = np.argwhere(likely)
    for neighbour in neighbours:
        lead = cv2.resize(neighbour, plane.shape[::-1], interpolation=cv2.INTER_CUBIC)
        lead = cv2.dilate(cv2.subtract(plane, lead, dst=lead), SQUARE)[*points.T]
        points = points[lead >= -LAG * np.abs(plane[*points.T]) - doubt]
    if every_pixel or not len(points):
        return points
    padded = cv2.copyMakeBorder(plane, 1, 1, 1, 1, cv2.BORDER_REFLECT)
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
    # along a ridge, pixels are maxima where the crest happens to pass through their centre, so
    # the slope there is measured against the curvature across as well, over one pixel
    pixel = max(np.divide(plane.shape, shape))
    allowed = SLACK * ((0.71 + 1.1 * pixel) * bends + 0.57 * pixel * bends[::-1]) + doubt
    return points[(slopes <= allowed).all(axis=0)]


def _settled(
    plane: NDArray, points: NDArray[np.int_], shape: Sequence[int], threshold: float, doubt: float
) -> tuple[NDArray[np.int_], NDArray[np.float64], NDArray[np.float64]]:
    """Return pixels (N, 2) near grid points that may be maxima, their responses and lead."""
    spacing = np.divide(shape, plane.shape)
    reach = math.ceil(spacing.max() / 2) + 1
    settled = [np.empty((0, 4))]
    for start in range(0, len(points), AT_ONCE):
        centres = (points[start : start + AT_ONCE] + 0.5) * spacing - 0.5
        rows, columns = _around(np.rint(centres).astype(int), reach)
        patch = _interpolated(plane, shape, rows, columns)
        inner = patch[:, 1:-1, 1:-1]
        across = np.maximum(patch[:, :, :-2], patch[:, :, 2:])
        around = np.maximum(across, patch[:, :, 1:-1])
        around = np.maximum(around[:, :-2], around[:, 2:])
        margin = inner - np.maximum(around, across[:, 1:-1])
        at = point, row, column = np.nonzero((margin >= -doubt) & (inner > threshold - doubt))
        places = rows[point, row + 1], columns[point, column + 1]
        settled.append(np.column_stack([*places, inner[at], margin[at]]))
    settled = np.concatenate(settled)
    _, first = np.unique(settled[:, :2], axis=0, return_index=True)
    inside = np.all((settled[first, :2] >= 0) & (settled[first, :2] < shape), axis=1)
    pixels, values, margins = np.split(settled[first[inside]], [2, 3], axis=1)
    return pixels.astype(int), values[:, 0], margins[:, 0]


def _around(pixels: NDArray[np.int_], reach: int) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
    """Return rows and columns (N, 2 reach + 1) about pixels, beyond the border as well."""
    steps = np.arange(-reach, reach + 1)
    return pixels[:, :1] + steps, pixels[:, 1:] + steps


def _interpolated(
    plane: NDArray, shape: Sequence[int], rows: NDArray[np.int_], columns: NDArray[np.int_]
) -> NDArray[np.float32]:
    """Interpolate at blocks of pixels: rows (N, P) and columns (N, P) give (N, P, P)."""
    (row_index, row_weights), (column_index, column_weights) = (
        _taps(pixels, count, length / count)
        for pixels, count, length in zip((rows, columns), plane.shape, shape, strict=True)
    )
    block = plane[row_index[:, :, None], column_index[:, None, :]]
    return row_weights @ block @ column_weights.transpose(0, 2, 1)


def _taps(pixels: NDArray[np.int_], count: int, spacing: float) -> tuple[NDArray, NDArray]:
    """Return the grid points that a run of pixels needs (N, B), and their weights (N, P, B)."""
    position = ((pixels + 0.5) / spacing - 0.5).astype(np.float32)
    width = 2 * TAPS + math.ceil((pixels.shape[1] - 1) / spacing)
    index = np.floor(position[:, :1]).astype(int) - TAPS + 1 + np.arange(width)
    distance = (position[:, :, None] - index[:, None, :]).astype(np.float32)
    inside = np.maximum(1 - (distance / TAPS) ** 2, 0)
    weights = np.sinc(distance) * np.exp(STEEPNESS * (np.sqrt(inside) - 1)) * (inside > 0)
    weights /= weights.sum(axis=2, keepdims=True)
    # beyond the border the image is mirrored, again and again
    mirrored = np.abs((index + 0.5 + count) % (2 * count) - count) - 0.5
    return mirrored.astype(int), weights


def _exact(
    padded: NDArray, margin: int, pixels: NDArray[np.int_], sigmas: NDArray, reach: int = 1
) -> NDArray[np.float64]:
    """Filter with scipy's kernels about pixels (N, 2): (N, sigmas, 2 reach + 1, 2 reach + 1)."""
    count = 2 * reach + 1
    radius = int(4 * float(max(sigmas)) + 0.5) + reach
    smooths, bends = shifted = np.zeros((2, len(sigmas), count, 2 * radius + 1))
    for index, sigma in enumerate(sigmas.tolist()):
        offsets, smooth, bend = _kernels(sigma)
        for shift in range(count):
            first = radius - reach + shift - offsets[-1]
            shifted[:, index, shift, first : first + len(offsets)] = smooth, -(sigma**2) * bend
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * radius + 1,) * 2)
    rows, columns = (pixels + margin - radius).T
    blocks = np.empty((len(pixels), len(sigmas), count, count))
    at_once = max(1, PIXELS_AT_ONCE // (2 * radius + 1) ** 2)
    for start in range(0, len(pixels), at_once):
        part = slice(start, start + at_once)
        patches = windows[rows[part], columns[part]].astype(float)[:, None]
        blocks[part] = (bends @ patches) @ smooths.transpose(0, 2, 1)
        blocks[part] += (smooths @ patches) @ bends.transpose(0, 2, 1)
    return blocks / np.iinfo(padded.dtype).max if padded.dtype.kind == "u" else blocks


def _prune(blobs: NDArray, overlap: float) -> NDArray:
    """Drop the smaller of two blobs that overlap too much, in scikit-image's order."""
    if len(blobs) == 0:
        return np.empty((0, 3))
    tree = spatial.cKDTree(blobs[:, :2])
    distance = 2 * blobs[:, 2].max() * math.sqrt(2)
    if (tree.count_neighbors(tree, distance) - len(blobs)) / 2 > MOST_PAIRS:
        raise ValueError(f"{len(blobs):,} blobs are too near. Raise threshold, or lower max_sigma.")
    # the survivors of a chain of overlaps depend on the order of pairs: scikit-image's is
    # that of a set of pairs, and so is this
    pairs = np.array(list(tree.query_pairs(distance)), dtype=int).reshape(-1, 2)
    first, second = blobs[pairs[:, 0]], blobs[pairs[:, 1]]
    smaller, larger = np.sort([first[:, 2], second[:, 2]], axis=0)
    apart = np.hypot(*(first - second)[:, :2].T) / (math.sqrt(2) * larger)
    shared = (apart < 1).astype(float)
    # where circles cross, let scikit-image's own arithmetic round
    for place in np.flatnonzero(np.abs(apart - 1) < smaller / larger + 1e-5):
        shared[place] = _blob_overlap(first[place], second[place])
    sigmas = blobs[:, 2].tolist()
    for one, other in pairs[shared > overlap].tolist():
        sigmas[other if sigmas[one] > sigmas[other] else one] = 0
    return blobs[np.array(sigmas) > 0]
