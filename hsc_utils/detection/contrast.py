"""The grayscale image in which cells are searched: flattened, and by default its contrast.

A cell in brightfield is a dark ring with a bright halo, in DIC a bright and a dark side, out of
focus a disc. All differ from the background around them, whichever way: so by default the local
contrast, in multiples of the background's noise and up to a ceiling, becomes a dome a cell.
"""

from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from hsc_utils.detection.blobs import DetectionSettings

_SMOOTHING = 0.19  # over which local contrast is averaged, in multiples of the smallest sigma
_LEVELS = (0.15, 0.3, 0.45, 0.6)  # of contrast, at which areas become domes
_RAMP = 0.65  # from the edge of a dome to its top, in multiples of the smallest sigma
_WINDOW = 9  # side of the background's median window, in multiples of the largest sigma
_FINEST_NOISE = 0.5  # in grey levels; noise cannot be measured below the rounding to 8 bits
_SAMPLES = 240_000  # of an image tell the median of its noise as well as all


def search_image(rgb: NDArray[np.uint8], settings: "DetectionSettings") -> NDArray[np.float32]:
    """Turn an image into one in which cells are bright blobs; see `blobs.DetectionSettings`."""
    slices = cv2.split(rgb)
    used = [k for k, plane in enumerate(slices) if plane.min() < plane.max()]
    if not used:
        return np.zeros(rgb.shape[:2], np.float32)
    # a black frame around the field of view is no background
    blank = _frame(slices)
    view = _inside(blank)
    if blank[view].shape != blank.shape:
        found = np.zeros(blank.shape, np.float32)
        found[view] = search_image(rgb[view], settings)
        return found
    if settings.search.startswith("slice"):
        used = [min(int(settings.search.removeprefix("slice")), len(slices) - 1)]
    # one after the other, to bound memory
    deviations = (_deviation(slices[k], blank, settings) for k in used)
    if settings.search != "contrast":
        return _signed(reduce(cv2.add, deviations) / (255 * len(used)), settings.polarity)
    if settings.polarity != "both":
        deviations = (np.maximum(_signed(d, settings.polarity), 0) for d in deviations)
    ratios = (_power_ratio(d, blank, settings) for d in deviations)
    return _domes(reduce(cv2.max, ratios), settings)


def _frame(slices: Sequence[NDArray[np.uint8]]) -> NDArray[np.bool_]:
    """Mark areas that are black in every slice, too wide to be noise, and margins they cut off."""
    black = (np.maximum.reduce(slices) == 0).astype(np.uint8)
    black = cv2.morphologyEx(black, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
    if not black.any():
        return black > 0
    _, labels, stats, _ = cv2.connectedComponentsWithStats(1 - black, connectivity=4)
    areas = stats[1:, cv2.CC_STAT_AREA]
    cut_off = np.concatenate([[True], areas < 0.5 * areas.max(initial=0)])
    return cut_off[labels]


def _inside(blank: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Index the field of view within a frame, less the frame's blurred edge."""
    view = []
    for axis in (1, 0):
        shown = np.flatnonzero(~blank.all(axis=axis))
        count = blank.shape[1 - axis]
        first, last = (shown[0], shown[-1] + 1) if len(shown) else (0, count)
        view.append(slice(first + 2 * (first > 0), max(last - 2 * (last < count), first + 3)))
    return view[0], view[1]


def _deviation(plane: NDArray, blank: NDArray, settings: "DetectionSettings") -> NDArray:
    """Return how far a slice differs from its background, in grey levels."""
    if not settings.flatten:
        return plane.astype(np.float32)
    window = int(_WINDOW * settings.max_sigma)
    if blank.any():
        # beyond the frame, the field of view is carried on by the mean of what is near
        shown = (~blank).astype(np.float32)
        near = cv2.blur(plane * shown, (window, window))
        near /= np.maximum(cv2.blur(shown, (window, window)), 1e-6)
        plane = np.where(blank, near, plane).astype(np.uint8)
    step = max(1, int(window / 31))
    small = cv2.resize(plane, None, fx=1 / step, fy=1 / step, interpolation=cv2.INTER_AREA)
    width = min(int(window / step), min(small.shape) - 1) // 2 * 2 + 1
    # an odd reflection carries a slope on, where a plain one would bend it at the border
    padded = np.pad(small.astype(np.int16), width // 2, "reflect", reflect_type="odd")
    background = cv2.medianBlur(np.clip(padded, 0, 255).astype(np.uint8), max(width, 1))
    inner = slice(width // 2, -(width // 2) or None)
    background = background[inner, inner].astype(np.float32)
    background = cv2.resize(background, plane.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return cv2.subtract(plane, background, dst=background, dtype=cv2.CV_32F)


def _signed(deviation: NDArray[np.float32], polarity: str) -> NDArray[np.float32]:
    if polarity == "both":
        return np.abs(deviation)
    return -deviation if polarity == "dark" else deviation


def _power_ratio(
    deviation: NDArray[np.float32], blank: NDArray[np.bool_], settings: "DetectionSettings"
) -> NDArray[np.float32]:
    """Return the local power over that of the background's noise; 0 at a frame."""
    smoothing = _SMOOTHING * settings.min_sigma
    power = cv2.multiply(deviation, deviation, dst=deviation)
    power = cv2.GaussianBlur(power, (0, 0), smoothing)
    background = power[~blank] if blank.any() else power.ravel()
    # an odd step, lest it fall on the same columns in every row
    some = background[:: max(7, background.size // _SAMPLES | 1)]
    power *= 1 / max(float(np.median(some)), _FINEST_NOISE**2)
    if blank.any():
        reach = np.ones((2 * round(4 * smoothing) + 1,) * 2, np.uint8)
        power[cv2.dilate(blank.astype(np.uint8), reach) > 0] = 0
    return power


def _domes(ratio: NDArray[np.float32], settings: "DetectionSettings") -> NDArray[np.float32]:
    """Turn areas of contrast into domes that rise from the edge to 1 over the ramp.

    Holes are filled, so that a ring is one dome; and where two cells touch, the neck
    between them is narrow and so stays low. Several levels, averaged, let weak cells count.
    """
    ramp, largest_hole = _RAMP * settings.min_sigma, 2 * np.pi * settings.max_sigma**2
    domes = np.zeros_like(ratio)
    for level in _LEVELS:
        # contrast is a ratio of amplitudes, less that of the noise itself
        above = (ratio >= (1 + level * settings.full_contrast) ** 2).view(np.uint8)
        outlines, nesting = cv2.findContours(above, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        places = [] if nesting is None else nesting[0]
        for outline, (*_, around) in zip(outlines, places, strict=True):
            # by Pick's theorem, the pixels within an outline of pixels
            if around >= 0 and cv2.contourArea(outline) - len(outline) / 2 + 1 <= largest_hole:
                cv2.drawContours(above, [outline], 0, 1, cv2.FILLED)
        # an image without any background has no edges to measure from
        if above.all():
            continue
        depth = cv2.distanceTransform(above, cv2.DIST_L2, 5)
        domes += np.minimum(depth, ramp, out=depth)
    domes /= np.float32(ramp * len(_LEVELS))
    return domes
