"""Cells in an image by LoG, DoG or DoH."""

import json
import math
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage import feature

from hsc_utils.detection.checks import as_array, check_choice, check_numbers, shown
from hsc_utils.detection.contrast import search_image
from hsc_utils.detection.fast_log import blob_log
from hsc_utils.files import from_root, set_aside, shown_path, write_json
from hsc_utils.study import DamagedFileError

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
    search : {"contrast", "mean", "slice0", "slice1", "slice2"}
        Image searched. ``contrast``: the largest local contrast of any slice; ``mean``: the
        mean of the slices; ``slice0``…: one slice.
    polarity : {"both", "bright", "dark"}
        Whether to look for what is brighter than the background, darker, or either.
    flatten : bool
        Whether to subtract the background, a running median. Medians keep edges, so the
        shadow of a chamber wall is removed rather than outlined.
    full_contrast : float
        Contrast, in multiples of the background's noise, that counts as 1; stronger
        contrast counts no more, so that a brilliant cell is not found in pieces.
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
            check_choice(name, getattr(self, name), allowed)
        if not isinstance(self.flatten, bool | np.bool_):
            raise ValueError(f"flatten is {shown(self.flatten)}, but true or false was expected.")
        numbers = {f.name: getattr(self, f.name) for f in fields(self) if f.type in (int, float)}
        check_numbers(whole=["num_sigma"], **numbers)
        for field in fields(self):  # NumPy's numbers cannot be written as JSON
            object.__setattr__(self, field.name, field.type(getattr(self, field.name)))
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

    def write(self, path: str | Path, set_by: str) -> None:
        """Write the settings as ``detection.json``, set by the ``tuning`` or by ``hand``."""
        write_json(from_root(path), asdict(self) | {"set_by": set_by})

    @classmethod
    def read(cls, path: str | Path) -> "DetectionSettings":
        """Read settings that `write` wrote; a ValueError names a file that holds no such."""
        return _read(from_root(path))[0]


def _read(path: Path) -> tuple[DetectionSettings, str]:
    """Return the settings of a file, and who set them."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{shown_path(path)} is no file. Give a detection.json that notebook 02 wrote."
        )
    try:
        content = dict(json.loads(path.read_text()))
    except (TypeError, ValueError) as error:
        raise DamagedFileError(
            f"{shown_path(path)} is empty, cut short or damaged: it holds no settings that can "
            "be read."
        ) from error
    set_by = content.pop("set_by", "hand")
    unknown = sorted(set(content) - {field.name for field in fields(DetectionSettings)})
    if unknown:
        raise ValueError(f"{shown_path(path)} holds unknown settings: {', '.join(unknown)}.")
    try:
        return DetectionSettings(**content), set_by
    except ValueError as error:
        raise ValueError(f"{shown_path(path)}: {error}") from error


def settings_in_use(
    path: str | Path, wanted: DetectionSettings, set_by: str = "tuning"
) -> DetectionSettings:
    """Write settings, but leave and return those that somebody set by hand to what tuning chose.

    What is kept or replaced is printed. Settings set by hand that others set by hand replace
    are kept beside them, under a name with the time.

    Parameters
    ----------
    path : path
        ``detection.json``. Its ``set_by`` says who set it; without that it was made by hand.
    wanted : DetectionSettings
        The settings to use.
    set_by : {"tuning", "hand"}
        Who chose them.

    Returns
    -------
    DetectionSettings
        What the file now holds.
    """
    path = from_root(path)
    check_settings(wanted)
    try:
        before, by = _read(path)
    except FileNotFoundError:
        before, by = wanted, ""
    except DamagedFileError as error:
        set_aside(path, str(error))
        before, by = wanted, ""
    changes = ", ".join(
        f"{name} {value}, {'tuned' if set_by == 'tuning' else 'now'} {getattr(wanted, name)}"
        for name, value in asdict(before).items()
        if value != getattr(wanted, name)
    )
    if by == "hand" and set_by == "tuning":
        print(
            f"{shown_path(path)} was set by hand and is used as it is "
            f"({changes or 'the same as tuned'}). Delete it to use the tuned settings."
        )
        return before
    if changes and by == "hand":
        aside = path.with_name(f"{path.stem}.{datetime.now():%Y-%m-%dT%H%M%S}{path.suffix}")
        path.replace(aside)
        print(
            f"The settings in {shown_path(path)}, set by hand, were replaced ({changes}). They "
            f"are kept in {aside.name}."
        )
    elif changes:
        print(
            f"The settings in {shown_path(path)} were replaced ({changes}). To keep settings "
            'of your own, let its "set_by" be "hand".'
        )
    if changes or not by:
        wanted.write(path, set_by)
    return wanted


def check_settings(*settings: DetectionSettings) -> None:
    """Refuse what are no settings."""
    for wrong in settings:
        if not isinstance(wrong, DetectionSettings):
            raise ValueError(f"settings must be DetectionSettings, but are {shown(wrong)}.")


def detect_cells(rgb: NDArray[np.uint8], settings: DetectionSettings) -> NDArray[np.float64]:
    """Find cells in an image.

    Parameters
    ----------
    rgb : ndarray of uint8, shape (Y, X, 3) or (Y, X)
        Image as step 01 writes it.
    settings : DetectionSettings
        How to look.

    Returns
    -------
    ndarray of float64, shape (N, 3)
        y, x and sigma of each cell in px. Empty for a blank image.

    Raises
    ------
    ValueError
        If the image is not 8-bit, or not grayscale or RGB, or `settings` are none.
    """
    return detect_in(searched(rgb, settings), settings)


def searched(rgb: NDArray[np.uint8], settings: DetectionSettings) -> NDArray[np.float32]:
    """Return the image (Y, X) that `detect_cells` searches, in which cells are bright blobs."""
    check_settings(settings)
    rgb = as_array(rgb)
    if rgb.dtype != np.uint8 or rgb.ndim not in (2, 3) or (rgb.ndim == 3 and rgb.shape[2] != 3):
        raise ValueError(
            f"The image must be uint8 of shape (Y, X, 3) or (Y, X), but is {rgb.dtype} of shape "
            f"{rgb.shape}. Images of another kind become such ones in notebook 01."
        )
    # a line or a corner of an image holds no whole cell
    if min(rgb.shape[:2]) < 2 * settings.max_sigma:
        return np.zeros(rgb.shape[:2], np.float32)
    sizes = {"min_sigma": settings.min_sigma, "max_sigma": settings.max_sigma}
    how = {"flatten": settings.flatten, "full_contrast": settings.full_contrast}
    return search_image(rgb, settings.search, settings.polarity, **sizes, **how)


def detect_in(image: NDArray[np.float32], settings: DetectionSettings) -> NDArray[np.float64]:
    """Find cells in the image that `searched` returned."""
    if not image.any():
        return np.empty((0, 3))
    sigmas = settings.sigmas()
    low, high, count = float(sigmas[0]), float(sigmas[-1]), len(sigmas)
    options = {"threshold": settings.threshold, "overlap": settings.overlap}
    # DoG and DoH run at half the resolution where the smallest blob allows it: four times faster
    step = 2 if settings.method != "log" and low >= 4 else 1
    shape = tuple(-(-length // step) for length in image.shape)
    small = image if step == 1 else cv2.resize(image, shape[::-1], interpolation=cv2.INTER_AREA)
    if settings.method == "log":
        found = blob_log(small, low, high, count, log_scale=True, **options)
    elif settings.method == "dog":
        # a touch more range than the last sigma needs, lest rounding lose it
        limits = low / step, high / step * (1 + 1e-6)
        found = feature.blob_dog(small, *limits, float(sigmas[1] / sigmas[0]), **options)
    else:
        # a blob of DoH has a radius of sigma, the others of 1.41 sigma
        limits = low / step * math.sqrt(2), high / step * math.sqrt(2)
        # its integral image takes sums below 0 for 0
        small = small - small.min()
        found = feature.blob_doh(small, *limits, count, log_scale=True, **options)
        found = found / [1, 1, math.sqrt(2)]
    found = found.astype(np.float64) * step + [(step - 1) / 2, (step - 1) / 2, 0]
    found = found[found[:, 2] > settings.min_sigma * (1 - 1e-3)]
    return found[[_roundness(image, *blob) >= settings.min_roundness for blob in found]]


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
