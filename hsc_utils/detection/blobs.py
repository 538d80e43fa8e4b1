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

from hsc_utils.detection.checks import as_array, check, check_choice, check_numbers, check_rules
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

    A cell is a blob of radius 1.41 sigma, in px. What is impossible raises a ValueError.
    """

    # "log": Laplacian of Gaussian, the paper's choice; difference of Gaussians; or determinant of
    # Hessian. Thresholds tuned for one do not carry over to another.
    method: str = "log"
    min_sigma: float = 7.0  # of the smallest cell
    max_sigma: float = 13.0  # of the largest cell
    num_sigma: int = 7  # sizes tried between them
    threshold: float = 0.2  # smallest response of a cell
    overlap: float = 0.5  # of two cells that share more of their area, the smaller is dropped
    # Image searched: the largest local contrast of any slice, their mean, or one ("slice0").
    search: str = "contrast"
    polarity: str = "both"  # whether cells are "bright" or "dark" against the background, or either
    # Whether to subtract the background, a running median. Medians keep edges, so the shadow of a
    # chamber wall is removed rather than outlined.
    flatten: bool = True
    # Contrast, in multiples of the background's noise, that counts as 1; stronger contrast counts
    # no more, so that a brilliant cell is not found in pieces.
    full_contrast: float = 8.0
    min_roundness: float = 0.2  # short axis over long axis, by curvature; drops walls and fibres

    def __post_init__(self):
        for name, allowed in _CHOICES.items():
            check_choice(name, getattr(self, name), allowed)
        known = isinstance(self.flatten, bool | np.bool_)
        check(known, "flatten", self.flatten, "true or false was expected")
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
        check_rules(asdict(self), rules)

    def sigmas(self) -> NDArray[np.float64]:
        """Return the sigmas tried: one below the smallest cell, then those of cells.

        What fits the size below best is debris, which would otherwise be cells of the smallest.
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
    shown = shown_path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{shown} is no file. Give a detection.json of notebook 02.")
    try:
        content = dict(json.loads(path.read_text()))
    except (TypeError, ValueError) as error:
        raise DamagedFileError(f"{shown} is empty, cut short or damaged.") from error
    set_by = content.pop("set_by", "hand")
    if unknown := sorted(set(content) - {field.name for field in fields(DetectionSettings)}):
        raise ValueError(f"{shown} holds unknown settings: {', '.join(unknown)}.")
    try:
        return DetectionSettings(**content), set_by
    except ValueError as error:
        raise ValueError(f"{shown}: {error}") from error


def settings_in_use(
    path: str | Path, wanted: DetectionSettings, set_by: str = "tuning"
) -> DetectionSettings:
    """Write settings that the ``tuning`` or a ``hand`` chose, and return those in force.

    Tuning leaves a ``detection.json`` that was set by hand, as its ``set_by`` says, or that has
    none. A hand replaces another's, which is kept beside it under a name with the time. What is
    kept or replaced is printed.
    """
    path = from_root(path)
    check_settings(wanted)
    before, by = wanted, ""
    try:
        before, by = _read(path)
    except DamagedFileError as error:
        set_aside(path, str(error))
    except FileNotFoundError:
        pass
    word = "tuned" if set_by == "tuning" else "now"
    changes = ", ".join(
        f"{name} {value}, {word} {getattr(wanted, name)}"
        for name, value in asdict(before).items()
        if value != getattr(wanted, name)
    )
    if by == "hand" and set_by == "tuning":
        print(
            f"{shown_path(path)} was set by hand and is used as it is "
            f"({changes or 'the same as tuned'}). Delete it to use the tuned settings."
        )
        return before
    if changes:
        kept = 'To keep settings of your own, let its "set_by" be "hand".'
        if by == "hand":
            now = f"{datetime.now():%Y-%m-%dT%H%M%S}"
            aside = path.replace(path.with_name(f"{path.stem}.{now}{path.suffix}"))
            kept = f"Those set by hand are kept in {aside.name}."
        print(f"The settings in {shown_path(path)} were replaced ({changes}). {kept}")
    if changes or not by:
        wanted.write(path, set_by)
    return wanted


def check_settings(*settings: DetectionSettings) -> None:
    """Refuse what are no settings."""
    for given in settings:
        known = isinstance(given, DetectionSettings)
        check(known, "What was given", given, "settings must be DetectionSettings")


def detect_cells(rgb: NDArray[np.uint8], settings: DetectionSettings) -> NDArray[np.float64]:
    """Find cells in an image, uint8 of shape (Y, X, 3) or (Y, X), as step 01 writes it.

    Returns
    -------
    ndarray of float64, shape (N, 3)
        y, x and sigma of each cell in px. Empty for a blank image.
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
    return search_image(rgb, settings)


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
    smallest = settings.min_sigma * (1 - 1e-3)
    if settings.method == "log":
        found = blob_log(small, low, high, count, log_scale=True, above=smallest, **options)
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
    found = found[found[:, 2] > smallest]
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
