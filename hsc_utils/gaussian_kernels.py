"""scipy's truncated Gaussian and its second derivative, as numbers."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@lru_cache(maxsize=256)
def kernels(sigma: float) -> tuple[NDArray[np.int_], NDArray[np.float64], NDArray[np.float64]]:
    """Return offsets, Gaussian and second derivative as `scipy.ndimage` samples them.

    Both end at 4 sigma, rounded; the Gaussian sums to 1.
    """
    offsets = np.arange(-int(4 * sigma + 0.5), int(4 * sigma + 0.5) + 1)
    smooth = np.exp(-0.5 / (sigma * sigma) * offsets**2)
    smooth /= smooth.sum()
    return offsets, smooth, smooth * (offsets**2 / sigma**4 - 1 / sigma**2)
