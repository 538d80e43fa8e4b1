"""What a picture would look like without some of its pixels.

Where a cell was, the picture continues as it does around it: its slow changes are carried over
the hole, and grain is copied from a place without a cell. So neither a seam nor a patch without
noise betrays that something stood there, nor how large it was.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

_TRIES, _COMPARED = 64, 8  # places that a piece of grain is looked for at, and compared
_PIXELWISE = 3  # px; pieces no larger are filled from single pixels
_DUST = 5  # deviation, in those of the grain, beyond which a free pixel is no background
_FEW = 0.01  # weight below which the surroundings of a pixel say less than those further away
_RIDGE = 0.01  # of the parabola that stands for the illumination, in a square of side 2


def paint_out(
    picture: NDArray[np.uint8], holes: NDArray[np.bool_], seed: int, smoothing_px: float = 12
) -> NDArray[np.uint8]:
    """Replace some pixels of a picture by what its background would look like there.

    Slow changes come from the pixels around (see `low_frequencies`); grain is that of places
    elsewhere in the picture, each piece as large as a hole where there is such a place, chosen so
    that its outline crosses no dust.

    Parameters
    ----------
    picture : uint8 (H, W, 3)
        A patch or a whole image.
    holes : bool (H, W)
        The pixels to replace. All others stay as they are.
    seed : int
        The same seed gives the same bytes.
    smoothing_px : float
        Sigma of the Gaussian that tells slow changes from grain.

    Returns
    -------
    uint8 (H, W, 3)

    Raises
    ------
    ValueError
        If the holes leave nothing of the picture.
    """
    if holes.all():
        raise ValueError("The holes cover the whole picture: no background is left to go by.")
    return filled(picture, holes, low_frequencies(picture, ~holes, smoothing_px), seed)


def low_frequencies(
    picture: NDArray[np.uint8], free: NDArray[np.bool_], smoothing_px: float
) -> NDArray[np.float32]:
    """Return the slow changes of a picture (H, W, 3), as those of its free pixels continue.

    Dust among them is left out: a second round does without what deviates most from the first.
    """
    height, width = free.shape
    step = max(1, int(smoothing_px / 4))  # what is slow needs few pixels
    small = -(-width // step), -(-height // step)
    weight = cv2.resize(free.astype(np.float32), small, interpolation=cv2.INTER_AREA)
    masked = cv2.bitwise_and(picture, picture, mask=free.astype(np.uint8)).astype(np.float32)
    pixels = cv2.resize(masked, small, interpolation=cv2.INTER_AREA)
    pixels /= np.maximum(weight, 1e-6)[..., None]
    sigma = smoothing_px / step
    off = np.abs(pixels - _carried(pixels, weight, sigma))
    some = off[::2, ::2][weight[::2, ::2] > 0]
    grain = 1.5 * np.median(some, axis=0) + 0.1 if len(some) else np.inf
    dust = cv2.dilate((off > _DUST * grain).any(axis=2).astype(np.uint8), np.ones((3, 3)))
    quiet = weight * (dust == 0)
    low = _carried(pixels, quiet if quiet.any() else weight, sigma)
    return cv2.resize(low, (width, height), interpolation=cv2.INTER_LINEAR)


def _carried(
    pixels: NDArray[np.float32], weight: NDArray[np.float32], sigma: float
) -> NDArray[np.float32]:
    """Smooth pixels (H, W, 3) by their weight; where there is none, from further away.

    What twice the smoothing gives is the first guess, so that slopes go on across a hole; the
    very first is a parabola.
    """
    height, width = weight.shape
    weighted = np.dstack([pixels * weight[..., None], weight])
    if min(height, width) < 8:
        return _fitted(weighted)
    half = (width + 1) // 2, (height + 1) // 2
    coarse = cv2.resize(weighted, half, interpolation=cv2.INTER_AREA)
    halved = coarse[..., :3] / np.maximum(coarse[..., 3:], 1e-6)
    guess = cv2.resize(_carried(halved, coarse[..., 3], sigma), (width, height))
    weighted[..., :3] -= guess * weight[..., None]
    rest = cv2.GaussianBlur(weighted, (0, 0), sigma)
    return guess + rest[..., :3] / (rest[..., 3:] + _FEW)


def _fitted(weighted: NDArray[np.float32]) -> NDArray[np.float32]:
    """Fit a parabola, as illumination falls off, to few pixels (H, W, 3 and their weight).

    A little ridge keeps it from running away where pixels lie on one side only.
    """
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in weighted.shape[:2]), indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1).reshape(-1, 6)
    values = weighted.reshape(-1, 4) / max(float(weighted[..., 3].sum()), 1e-6)
    squares = terms.T @ (values[:, 3:] * terms) + _RIDGE * np.diag([1e-6, 1, 1, 1, 1, 1])
    fit = terms @ np.linalg.solve(squares, terms.T @ values[:, :3])
    return fit.reshape(*weighted.shape[:2], 3).astype(np.float32)


def filled(
    picture: NDArray[np.uint8],
    holes: NDArray[np.bool_],
    low: NDArray[np.float32],
    seed: int,
) -> NDArray[np.uint8]:
    """Fill holes with slow changes and with grain copied from elsewhere, piece by piece."""
    rng, painted = np.random.default_rng(seed), picture.copy()
    covered = cv2.integral(holes.astype(np.uint8))  # so that four of its pixels tell of any box
    count, labels, boxes, _ = cv2.connectedComponentsWithStats(holes.astype(np.uint8))
    for number in range(1, count):
        left, top, width, height = boxes[number, :4]
        hole = labels[top : top + height, left : left + width] == number
        pieces = [(top, left, hole)]
        while pieces:
            top, left, piece = pieces.pop()
            if not piece.any():
                continue
            if max(piece.shape) <= _PIXELWISE:
                ys, xs = np.nonzero(piece)
                there = np.unravel_index(rng.choice(np.flatnonzero(~holes), len(ys)), holes.shape)
            elif (corner := _place(picture, low, covered, piece, rng)) is not None:
                ys, xs = np.nonzero(piece)
                there = ys + corner[0], xs + corner[1]
            else:
                pieces += _halves(top, left, piece)
                continue
            here = ys + top, xs + left
            values = picture[there] + (low[here] - low[there])
            painted[here] = np.rint(values).clip(0, 255)
    return painted


def _place(
    picture: NDArray[np.uint8],
    low: NDArray[np.float32],
    covered: NDArray[np.int32],
    piece: NDArray[np.bool_],
    rng: np.random.Generator,
) -> NDArray[np.int64] | None:
    """Look for a box without holes as large as a piece, and return its corner (y, x), or None.

    Of some, it is the one where the piece's outline runs over the smoothest ground: dust that
    were cut there would show the outline.
    """
    height, width = piece.shape
    corners = rng.integers(0, np.subtract(covered.shape, piece.shape), (_TRIES, 2))
    tops, lefts = corners.T
    bottoms, rights = tops + height, lefts + width
    inside = (
        covered[bottoms, rights]
        - covered[tops, rights]
        - covered[bottoms, lefts]
        + covered[tops, lefts]
    )
    corners = corners[inside == 0][:_COMPARED]
    if not len(corners):
        return None
    solid = cv2.copyMakeBorder(piece.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    ys, xs = np.nonzero(piece & (cv2.erode(solid, np.ones((3, 3)))[1:-1, 1:-1] == 0))
    ys, xs = ys + corners[:, :1], xs + corners[:, 1:]
    roughest = np.abs(picture[ys, xs] - low[ys, xs]).max(axis=1)  # (places, 3)
    return corners[(roughest / (np.median(roughest, axis=0) + 1)).max(axis=1).argmin()]


def _halves(
    top: int, left: int, piece: NDArray[np.bool_]
) -> list[tuple[int, int, NDArray[np.bool_]]]:
    """Cut a piece in two across its longer side."""
    height, width = piece.shape
    if height >= width:
        cut = height // 2
        return [(top, left, piece[:cut]), (top + cut, left, piece[cut:])]
    cut = width // 2
    return [(top, left, piece[:, :cut]), (top, left + cut, piece[:, cut:])]


def distance_from(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return how far each pixel lies from a mask, in px; infinite where the mask is empty."""
    if not mask.any():
        return np.full(mask.shape, np.inf, np.float32)
    return cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5)


def soft_outline(distance: NDArray[np.float32], margin_px: float) -> NDArray[np.float32]:
    """Return 1 on cells and around them, falling to 0 over the outer half of the margin."""
    half = max(margin_px / 2, 1)
    share = np.clip((margin_px + 1 - distance) / half, 0, 1)
    return (share * share * (3 - 2 * share)).astype(np.float32)[..., None]
