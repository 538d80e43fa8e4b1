"""How large the cells of an image are, before anybody has said so: a scan over all sizes.

For one range of sizes after the other, cells are searched as `detect_cells` does it, and their
discs are laid over the area of contrast. Too small a range leaves rings and parts of cells, too
large a one covers background: the range whose discs agree best with the contrast (intersection
over union) is that of the cells.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import pandas as pd
from joblib import cpu_count
from numpy.typing import NDArray
from tqdm.contrib.concurrent import thread_map

from hsc_utils.detection.blobs import DetectionSettings, check_settings, detect_in, searched
from hsc_utils.detection.cells import suggest_side
from hsc_utils.files import no_bar

_SMALLEST = 1.5  # px, the smallest sigma looked for
_STEP = 2**0.5  # from one range to the next
_WIDTHS = (2.0, 3.0)  # of a range: the largest sigma over the smallest
_LARGEST = 5  # diameters of the largest cells looked for that fit the image's shorter side
_FINE = 3.0  # px: larger cells are searched on a grid on which the smallest have this sigma
_SHOWN = 0.1  # height of the searched image from which on it counts as contrast
# Agreement of discs and contrast: 0.5 to 0.75 where single cells lie on empty ground, 0.2 where
# they touch everywhere (blood smears) or lie in layers.
CLEAR, _NOTHING = 0.4, 0.05
_FEW = 0.25  # of the median number of cells in an image that is worth a word


@dataclass(frozen=True)
class Sizes:
    """What `suggest_sizes` found; sigmas and sides in px, the radius of a cell is 1.41 sigma."""

    sigma_low: float  # NaN, like all numbers below, where nothing was seen
    sigma_high: float
    agreement: float  # of discs and contrast, in [0, 1]
    cells_per_image: float
    side: int  # of a patch that holds a cell and a margin; 0 where nothing was seen
    scan: pd.DataFrame  # one row per range tried: low, high, agreement, cells_per_image

    @property
    def clear(self) -> bool:
        """Whether the cells' sizes stand out."""
        return self.agreement >= CLEAR

    @property
    def smallest(self) -> tuple[float, ...]:
        """Smallest sigmas to try in notebook 02."""
        return tuple(round(self.sigma_low * f, 1) for f in (0.75, 0.9, 1.05) if self.side)

    @property
    def largest(self) -> tuple[float, ...]:
        """Largest sigmas to try in notebook 02."""
        return tuple(round(self.sigma_high * f, 1) for f in (0.8, 0.9, 1.1) if self.side)

    @property
    def warnings(self) -> list[str]:
        """Sentences on how far to trust the suggestion; none where it is clear."""
        if not self.side:
            return ["The scan over sizes saw nothing that stands out from the background."]
        if self.clear:
            return []
        return [
            f"The scan over sizes is not clear (agreement {self.agreement:.2f}, {CLEAR} is "
            "wanted): cells may touch everywhere, lie in layers, or differ from the background in "
            "brightness alone (then search one slice, with a polarity). Look at the pictures."
        ]


def suggest_sizes(
    images: Sequence[NDArray[np.uint8]], settings: DetectionSettings | None = None
) -> Sizes:
    """Find the range of sizes that cells have in some images.

    Parameters
    ----------
    images : sequence of uint8 (Y, X, 3)
        Fields of view, a few.
    settings : DetectionSettings, optional
        How to look otherwise (``search``, ``polarity`` …); sizes in it are not looked at.

    Returns
    -------
    Sizes
        The range, the number of cells it finds, a patch side, and how clear all that is.

    Raises
    ------
    ValueError
        If there is no image.
    """
    if not len(images):
        raise ValueError("images: none was given, so there are no sizes to find.")
    settings = settings or DetectionSettings()
    check_settings(settings)
    most = min(min(image.shape[:2]) for image in images) / (2 * np.sqrt(2) * _LARGEST)
    lows = _SMALLEST * _STEP ** np.arange(40)
    ranges = [(low, low * width) for low in lows for width in _WIDTHS if low * width <= most]

    def look(image: NDArray[np.uint8]) -> list[tuple[float, NDArray[np.float64]]]:
        return [_agreement(image, settings, *sigmas) for sigmas in ranges]

    bar = {"desc": "sizes", "leave": False, "disable": no_bar()}
    looked = thread_map(look, images, max_workers=cpu_count(), **bar)
    scan = pd.DataFrame(ranges, columns=["low", "high"])
    scan["agreement"] = np.mean([[found[0] for found in one] for one in looked], axis=0)
    scan["cells_per_image"] = np.mean([[len(found[1]) for found in one] for one in looked], axis=0)
    if scan.empty or scan["agreement"].max() < _NOTHING:
        return Sizes(np.nan, np.nan, 0.0, 0.0, 0, scan)
    best = int(scan["agreement"].idxmax())
    cells = np.concatenate([one[best][1] for one in looked])
    _, high, agreement, count = scan.loc[best].tolist()
    return Sizes(
        _smallest_cell(cells[:, 2]), high, agreement, count, suggest_side(cells[:, 2]), scan
    )


def _smallest_cell(sigmas: NDArray[np.float64]) -> float:
    """Return a sigma a little below that of small cells; debris, small in area, hardly counts."""
    sigmas = np.sort(sigmas)
    covered = np.cumsum(sigmas**2) / np.sum(sigmas**2)
    return 0.8 * float(sigmas[np.searchsorted(covered, 0.1)])


def _agreement(
    image: NDArray[np.uint8], settings: DetectionSettings, low: float, high: float
) -> tuple[float, NDArray[np.float64]]:
    """Return how well the discs of cells of a range agree with the contrast, and the cells."""
    step = max(1, int(low / _FINE))
    if step > 1:
        size = (image.shape[1] // step, image.shape[0] // step)
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    settings = replace(settings, min_sigma=low / step, max_sigma=high / step)
    contrast = searched(image, settings)
    cells = detect_in(contrast, settings)
    discs = np.zeros(contrast.shape, np.uint8)
    for y, x, sigma in cells:
        cv2.circle(discs, (round(x), round(y)), round(np.sqrt(2) * sigma), 1, cv2.FILLED)
    covered, shown = discs > 0, contrast > _SHOWN
    together = np.count_nonzero(covered | shown)
    agreement = np.count_nonzero(covered & shown) / together if together else 0.0
    return agreement, cells * step


def size_findings(sizes: Sizes, smallest: Sequence[float], largest: Sequence[float]) -> list[str]:
    """Say in sentences what the scan over sizes says of the sizes that are tried (sigmas, px)."""
    if not sizes.side:
        return sizes.warnings
    said = [
        f"A scan over all sizes: the range that agrees best with what stands out ends at sigma "
        f"{sizes.sigma_high:.1f} px; the cells found in it start at {sizes.sigma_low:.1f} px, "
        f"{sizes.cells_per_image:.0f} per image."
    ]
    low, high = min(smallest), max(largest)
    apart = low > sizes.sigma_low * _STEP or high < sizes.sigma_high / _STEP
    if sizes.clear and (apart or high < sizes.sigma_low or low > sizes.sigma_high):
        said.append(
            f"CAUTION: the sizes tried are {low:g} to {high:g}. Try smallest "
            f"{list(sizes.smallest)} and largest {list(sizes.largest)}, or leave both lists empty."
        )
    return said + sizes.warnings


def sizes_to_try(
    sizes: Sizes, smallest: Sequence[float], largest: Sequence[float]
) -> tuple[list[float], list[float]]:
    """Return the sigmas (px) to try: those given, and for an empty list those suggested.

    A ValueError says so where none are given and the scan is not clear.
    """
    if not sizes.clear and not (smallest and largest):
        raise ValueError(
            f"sizes are to be as the images suggest, but these do not say. {sizes.warnings[0]} "
            "Search another slice (search), or give the sizes in px."
        )
    return list(smallest or sizes.smallest), list(largest or sizes.largest)


def empty_findings(counts: pd.Series, classes: pd.Series, seen: Sizes | None = None) -> list[str]:
    """Say which images yield almost nothing where others of their class yield many.

    Where all yield far less than a clear scan over sizes, all are named.

    Parameters
    ----------
    counts, classes : Series
        Number of cells, and class, of each image, by image_id.
    seen : Sizes, optional
        From `suggest_sizes`.
    """
    if not counts.sum():
        return [f"CAUTION: no cell was found in any of the {len(counts)} images."]
    usual, expected = counts.groupby(classes).transform("median"), "usual in their class"
    if seen and seen.clear and counts.mean() < _FEW * seen.cells_per_image:
        usual = usual.clip(lower=seen.cells_per_image)
        expected = f"expected, {seen.cells_per_image:.0f}"
    few = counts[(counts < _FEW * usual) & (usual >= 1)]
    if few.empty:
        return []
    named = ", ".join(few.index[:5]) + ", …" * (len(few) > 5)
    loud = "CAUTION" if len(few) > len(counts) / 2 else "Caution"
    return [
        f"{loud}: {len(few)} of {len(counts)} images hold fewer than a quarter of the cells "
        f"{expected}: {named}. Look at them before you trust their classes' counts."
    ]
