"""Cells in an image by LoG, DoG or DoH."""

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage import feature

from hsc_utils.detection.contrast import search_image
from hsc_utils.detection.fast_log import blob_log
from hsc_utils.files import from_root, shown_path, write_json

METHODS = ("log", "dog", "doh")
_CHOICES = {
    "method": METHODS,
    "search": ("contrast", "mean", "slice0", "slice1", "slice2"),
    "polarity": ("both", "bright", "dark"),
}


@dataclass(frozen=True)
class DetectionSettings:
    """What `detect_cells` needs to know; the paper leaves nearly all of it open.

    Attributes
    ----------
    method : {"log", "dog", "doh"}
        Laplacian of Gaussian (the paper's choice), difference of Gaussians, or
        determinant of Hessian.
    min_sigma, max_sigma : float
        Smallest and largest cell, as the sigma of a blob in px; a cell's radius is 1.41
        sigma, for each method.
    num_sigma : int
        Number of sizes tried between them.
    threshold : float
        Smallest response of a cell. Values tuned for one method do not carry over.
    overlap : float
        Of two cells whose areas overlap by a larger fraction, the smaller is dropped.
    search, polarity, flatten, full_contrast
        The image searched: see `search.search_image`.
    min_roundness : float
        Smallest ratio of the curvatures of a blob along its long and its short axis, 0 to
        1. Drops walls and fibres.
    """

    method: str = "log"
    min_sigma: float = 7.0
    max_sigma: float = 13.0
    num_sigma: int = 7
    threshold: float = 0.2
    overlap: float = 0.5
    search: str = "contrast"
    polarity: str = "both"
    flatten: bool = True
    full_contrast: float = 8.0
    min_roundness: float = 0.2

    def __post_init__(self):
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}, but must be one of {', '.join(allowed)}."
                )
        rules = {
            "0 < min_sigma <= max_sigma": 0 < self.min_sigma <= self.max_sigma,
            "num_sigma >= 1": self.num_sigma >= 1,
            "threshold > 0": self.threshold > 0,
            "0 <= overlap <= 1": 0 <= self.overlap <= 1,
            "full_contrast > 0": self.full_contrast > 0,
            "0 <= min_roundness <= 1": 0 <= self.min_roundness <= 1,
        }
        for rule, holds in rules.items():
            if not holds:
                raise ValueError(f"Detection settings must satisfy {rule}, but are {self}.")

    def sigmas(self) -> NDArray[np.float64]:
        """Return the sigmas tried: one below the smallest cell, then those of cells.

        What fits the size below best is debris. Without it debris would be reported as
        cells of the smallest size.
        """
        cells = np.geomspace(self.min_sigma, self.max_sigma, self.num_sigma)
        step = cells[1] / cells[0] if self.num_sigma > 1 and cells[1] > cells[0] else 1.15
        return np.concatenate([[cells[0] / step], cells])

    def write(self, path: str | Path) -> None:
        """Write the settings as ``detection.json``."""
        write_json(from_root(path), asdict(self))

    @classmethod
    def read(cls, path: str | Path) -> "DetectionSettings":
        """Read settings that `write` wrote.

        Raises
        ------
        ValueError
            If the file holds an unknown setting or an impossible value.
        """
        content = json.loads(from_root(path).read_text())
        unknown = sorted(set(content) - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"{shown_path(path)} holds unknown settings: {', '.join(unknown)}.")
        return cls(**content)


def detect_cells(rgb: NDArray[np.uint8], settings: DetectionSettings) -> NDArray[np.float64]:
    """Find cells in an image.

    Parameters
    ----------
    rgb : ndarray of uint8, shape (Y, X, 3) or (Y, X)
        Image as `prepare` writes it.
    settings : DetectionSettings
        How to look.

    Returns
    -------
    ndarray of float64, shape (N, 3)
        y, x and sigma of each cell in px. Empty for a blank image.

    Raises
    ------
    ValueError
        If the image is not 8-bit, or not grayscale or RGB.
    """
    return detect_in(searched(rgb, settings), settings)


def searched(rgb: NDArray[np.uint8], settings: DetectionSettings) -> NDArray[np.float32]:
    """Return the grayscale image that `detect_cells` searches: see `search.search_image`."""
    rgb = np.asarray(rgb)
    if rgb.dtype != np.uint8 or rgb.ndim not in (2, 3) or (rgb.ndim == 3 and rgb.shape[2] != 3):
        raise ValueError(
            f"The image must be uint8 of shape (Y, X, 3) or (Y, X), but is {rgb.dtype} of shape "
            f"{rgb.shape}. Images of another kind become such ones in notebook 01."
        )
    # a line or a corner of an image holds no whole cell
    if min(rgb.shape[:2]) < 2 * settings.max_sigma:
        return np.zeros(rgb.shape[:2], np.float32)
    return search_image(
        rgb,
        settings.search,
        settings.polarity,
        min_sigma=settings.min_sigma,
        max_sigma=settings.max_sigma,
        flatten=settings.flatten,
        full_contrast=settings.full_contrast,
    )


def detect_in(image: NDArray[np.float32], settings: DetectionSettings) -> NDArray[np.float64]:
    """Find cells in the image that `searched` returned.

    DoG and DoH run at half the resolution where the smallest blob allows it, and take a
    quarter of the time.
    """
    if not image.any():
        return np.empty((0, 3))
    sigmas = settings.sigmas()
    common = {"threshold": settings.threshold, "overlap": settings.overlap}
    if settings.method == "log":
        low, high = float(sigmas[0]), float(sigmas[-1])
        found = blob_log(image, low, high, len(sigmas), log_scale=True, **common)
    else:
        step = 2 if sigmas[0] >= 4 else 1
        shape = tuple(-(-length // step) for length in image.shape)
        small = cv2.resize(image, shape[::-1], interpolation=cv2.INTER_AREA)
        found = _blobs_of_scikit_image(small, sigmas / step, settings.method, common)
        found = found.astype(np.float64) * step + [(step - 1) / 2, (step - 1) / 2, 0]
    found = found[found[:, 2] > settings.min_sigma * (1 - 1e-3)].astype(np.float64)
    return found[[_roundness(image, *blob) >= settings.min_roundness for blob in found]]


def _blobs_of_scikit_image(
    image: NDArray[np.float32], sigmas: NDArray[np.float64], method: str, common: dict
) -> NDArray[np.float64]:
    if method == "dog":
        # a touch more range than the last sigma needs, lest rounding lose it
        high, ratio = float(sigmas[-1]) * (1 + 1e-6), float(sigmas[1] / sigmas[0])
        return feature.blob_dog(image, float(sigmas[0]), high, ratio, **common)
    # a blob of DoH has a radius of sigma, the others of 1.41 sigma
    low, high = (float(sigma) * math.sqrt(2) for sigma in sigmas[[0, -1]])
    # its integral image takes sums below 0 for 0
    image = image - image.min()
    found = feature.blob_doh(image, low, high, len(sigmas), log_scale=True, **common)
    return found / [1, 1, math.sqrt(2)]


def _roundness(image: NDArray[np.float32], y: float, x: float, sigma: float) -> float:
    """Return the smaller curvature of a blob over its larger: 1 if round, 0 on a ridge."""
    reach = math.ceil(3 * sigma)
    offsets = np.arange(-reach, reach + 1)
    rows = np.clip(int(y) + offsets, 0, image.shape[0] - 1)
    columns = np.clip(int(x) + offsets, 0, image.shape[1] - 1)
    patch = image[np.ix_(rows, columns)]
    u = offsets / sigma
    smooth = np.exp(-0.5 * u**2)
    bend, slope = (u**2 - 1) * smooth, u * smooth
    yy, xx = bend @ patch @ smooth, smooth @ patch @ bend
    xy = slope @ patch @ slope
    mean, spread = (yy + xx) / 2, math.hypot((yy - xx) / 2, xy)
    return (mean + spread) / (mean - spread) if mean < 0 else 0.0
