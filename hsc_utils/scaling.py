"""More than 8 bits → 8: which raw intensity becomes 0 and which 255."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SCALINGS = ("bit_depth", "fixed", "image", "slice")
DEFAULT_PERCENTILES = (0.1, 99.9)


def to_eight_bits(
    slices: NDArray, bit_depth: int, scaling: str, limits: tuple[float, float] | None
) -> Sequence[NDArray[np.uint8]]:
    """Scale slices, uint8 or uint16 of shape (S, Y, X); 8 bits already are never changed.

    `scaling` and `limits` are those of `acquisition.compose_rgb`.

    Raises
    ------
    ValueError
        If `scaling` or `limits` is not one of those.
    """
    ranges = _ranges(slices, bit_depth, scaling, limits)
    if slices.dtype == np.uint8:
        return slices
    return [_scale(plane, *r) for plane, r in zip(slices, ranges, strict=True)]


def _ranges(
    slices: NDArray, bit_depth: int, scaling: str, limits: tuple[float, float] | None
) -> list[tuple[float, float]]:
    """Return for each slice the raw intensities that become 0 and 255."""
    if scaling not in SCALINGS:
        raise ValueError(f"scaling is {scaling!r}, but one of {', '.join(SCALINGS)} was expected.")
    if scaling == "bit_depth":
        return [(0, (1 << bit_depth) - 1)] * len(slices)
    if limits is None and scaling == "fixed":
        raise ValueError("scaling='fixed' needs limits: the raw intensities that become 0 and 255.")
    low, high = limits or DEFAULT_PERCENTILES
    if low >= high or (scaling != "fixed" and not 0 <= low < high <= 100):
        raise ValueError(
            f"limits are ({low}, {high}), but the first must be the smaller"
            f"{'' if scaling == 'fixed' else ', both percentiles from 0 to 100'}."
        )
    if scaling == "fixed":
        return [(low, high)] * len(slices)
    if scaling == "image":
        return [_percentiles(slices, low, high)] * len(slices)
    return [_percentiles(plane[None], low, high) for plane in slices]


def _percentiles(planes: NDArray, low: float, high: float) -> tuple[float, float]:
    """Return two percentiles by counting: exact, and much faster than sorting the pixels."""
    levels = int(planes.max()) + 1
    counts = [np.bincount(plane.ravel(), minlength=levels) for plane in planes]
    cumulative = np.sum(counts, axis=0).cumsum()
    ranks = np.array([low, high]) / 100 * (cumulative[-1] - 1)
    first, last = np.searchsorted(cumulative, np.round(ranks), side="right")
    return float(first), float(last)


def _scale(plane: NDArray, low: float, high: float) -> NDArray[np.uint8]:
    """Map low…high to 0…255 through a table, which is faster than arithmetic on the pixels."""
    values = np.arange(int(plane.max(initial=0)) + 1, dtype=np.float64)
    table = np.clip((values - low) * (255 / max(high - low, 1e-9)), 0, 255)
    return np.take(np.round(table).astype(np.uint8), plane)
