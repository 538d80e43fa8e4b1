"""What lies on the simulated slide: cells of three classes, and debris.

Class shows in the traits of `TRAITS`, with overlap, and in how many cells share a field; in
nothing else: the total autofluorescence of a cell, its height above the focal plane and what
lies around it are drawn alike for all. Delays of light are in radians; distances named ``_px``
in pixels, ``offset_px`` (row, column) from the middle of the window of SIDE x SIDE pixels that
holds one object.
"""

import zlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import pdist, squareform

PIXEL_SIZE_UM = 0.31
WAVELENGTH_UM = 0.55
SIDE = 64  # pixels, side of the window in which one object is drawn; even

# Cells in a field of 640 x 640 px, the classes in the paper's order.
DENSITY = {"LT-HSC": 12, "ST-HSC": 34, "MPP": 12}


class Trait(NamedTuple):
    """How a trait of cells is spread: normally about its class's mean, cut at its limits."""

    meaning: str
    means: tuple[float, float, float]  # of the classes in the order of `DENSITY`
    spread: float  # standard deviation
    limits: tuple[float, float]
    seen_in: frozenset[str]  # light it needs: any of it, or all if `together`
    together: bool = False


# Light that a slice records.
LIGHT = {"DIC": "transmitted", "Brightfield": "transmitted", "Autofluorescence": "emitted"}
_ANY = frozenset(LIGHT.values())

# Little in size, as the paper's models are said to look at texture. Of the rest, something shows
# in transmitted light alone, something in emitted light alone, and something only to those who
# see both at once: every cell has as many large granules, which delay light, as bright spots,
# which emit it, and the classes differ in how many of them are the same.
TRAITS = {
    "radius_px": Trait("radius (px)", (14.3, 14.8, 15.5), 1.1, (11.5, 19.5), _ANY),
    "nucleus_ratio": Trait(
        "radius of the nucleus over the cell's", (0.72, 0.68, 0.67), 0.05, (0.5, 0.9), _ANY
    ),
    "granularity": Trait(
        "small granules (in sixties)", (0.7, 2.0, 0.9), 0.5, (0.1, 5), frozenset({"transmitted"})
    ),
    "glow_in_spots": Trait(
        "share of the glow in bright spots",
        (0.15, 0.4, 0.8),
        0.13,
        (0, 0.95),
        frozenset({"emitted"}),
    ),
    "spots_on_granules": Trait(
        "share of bright spots that are large granules", (0.03, 0.97, 0.5), 0.1, (0, 1), _ANY, True
    ),
}
_OUT_OF_FOCUS = 0.05
_TOUCHING = 0.15
_CYTOPLASM_INDEX = 0.026  # refractive index above the medium's
_NUCLEUS_INDEX = -0.007  # above the cytoplasm's
_DELAY_PER_UM = 2 * np.pi / WAVELENGTH_UM
_SPOTS = 5  # bright spots, and large granules, of every cell


def generator(seed: int, *key: object) -> np.random.Generator:
    """Return the random numbers that belong to a seed and a key, the same in every process."""
    return np.random.default_rng([seed, zlib.crc32("/".join(map(str, key)).encode())])


def draw_cells(
    source: str,
    class_name: str,
    size: int,
    seed: int,
    density: Mapping[str, float] = DENSITY,
    contrast: float = 1,
) -> pd.DataFrame:
    """Decide where the cells of one acquisition lie and what they are like, one row per cell."""
    rng = generator(seed, source, "cells")
    wanted = max(1, rng.poisson(density[class_name] * (size / 640) ** 2 * rng.uniform(0.75, 1.25)))
    traits = draw_traits(rng, class_name, wanted, contrast)
    centres = _place(rng, traits["radius_px"].to_numpy(), size)
    count = len(centres)
    far = rng.uniform(size=count) < _OUT_OF_FOCUS
    away = rng.choice([-1, 1], count) * rng.uniform(3, 6, count)
    where = pd.DataFrame(
        {
            "source": source,
            "label": np.arange(1, count + 1),
            "y": centres[:, 0].round(3),
            "x": centres[:, 1].round(3),
            "class": class_name,
            "in_focus": ~far,
            "focus_um": np.where(far, away, rng.normal(0, 0.5, count)).round(3),
        }
    )
    return where.join(traits)


def draw_traits(
    rng: np.random.Generator, class_name: str, count: int, contrast: float = 1
) -> pd.DataFrame:
    """Draw the traits of some cells of a class, one column per trait.

    A contrast below 1 draws the means of the classes together, to the same mean at 0.
    """
    number = list(DENSITY).index(class_name)
    traits = {}
    for name, trait in TRAITS.items():
        mean = contrast * trait.means[number] + (1 - contrast) * np.mean(trait.means)
        traits[name] = rng.normal(mean, trait.spread, count).clip(*trait.limits).round(4)
    return pd.DataFrame(traits)


def _place(rng: np.random.Generator, radius: np.ndarray, size: int) -> np.ndarray:
    """Scatter cells that do not overlap; some settle against a neighbour.

    A cell that finds no room after 200 tries is left out, with those that follow.
    """
    centres: list[np.ndarray] = []
    for k, own in enumerate(radius):
        for _ in range(200):
            if centres and rng.uniform() < _TOUCHING:
                other = rng.integers(k)
                angle = rng.uniform(0, 2 * np.pi)
                step = 0.98 * (own + radius[other])
                centre = centres[other] + step * np.array([np.sin(angle), np.cos(angle)])
            else:
                centre = rng.uniform(3, size - 4, 2)
            gaps = [
                np.hypot(*(centre - c)) / (own + r) for c, r in zip(centres, radius, strict=False)
            ]
            if np.all((centre >= 3) & (centre <= size - 4)) and min(gaps, default=1) > 0.97:
                centres.append(centre)
                break
        else:
            break
    return np.array(centres).reshape(-1, 2)


def outline(
    rng: np.random.Generator, offset_px: tuple[float, float], radius_px: float, roughness: float
) -> np.ndarray:
    """Draw a closed, nearly round outline: distance from the centre, 1 on it and below 1 inside."""
    rows, columns = np.ogrid[:SIDE, :SIDE]
    y, x = rows - SIDE // 2 - offset_px[0], columns - SIDE // 2 - offset_px[1]
    angle = np.arctan2(y, x)
    radius = np.ones_like(angle)
    for order, weight in ((2, 1.0), (3, 0.5), (4, 0.3), (5, 0.2)):
        amplitude, start = rng.normal(0, roughness * weight), rng.uniform(0, 2 * np.pi)
        radius += amplitude * np.cos(order * angle + start)
    return (np.hypot(y, x) / (radius_px * radius)).astype(np.float32)


class Cell(NamedTuple):
    """One cell in a window: how it delays light, where it glows, which pixels are what."""

    delay: np.ndarray
    glow: np.ndarray  # adds up to 1
    inside: np.ndarray
    nucleus: np.ndarray
    granules: np.ndarray


def draw_cell(
    rng: np.random.Generator, offset_px: tuple[float, float], traits: Mapping[str, float]
) -> Cell:
    """Draw one cell as its traits say."""
    radius_px, nucleus_ratio = traits["radius_px"], traits["nucleus_ratio"]
    distance = outline(rng, offset_px, radius_px, 0.035)
    body = np.sqrt(np.clip(1 - distance**2, 0, None))
    room = radius_px * (1 - nucleus_ratio) * 0.8
    turn, shift = rng.uniform(0, 2 * np.pi), room * np.sqrt(rng.uniform())
    centre = (offset_px[0] + shift * np.sin(turn), offset_px[1] + shift * np.cos(turn))
    within = outline(rng, centre, radius_px * nucleus_ratio, 0.06)
    kernel = np.sqrt(np.clip(1 - within**2, 0, None))
    height_um = 2 * radius_px * PIXEL_SIZE_UM
    cytoplasm = np.clip(body - nucleus_ratio * kernel, 0, None)
    chromatin = gaussian_filter(rng.standard_normal((SIDE, SIDE), np.float32), 1.6) * kernel
    place = (offset_px, radius_px, centre, nucleus_ratio)
    count = rng.poisson(60 * traits["granularity"] * (radius_px / 15) ** 2)
    small = _dots(_scattered(rng, count, *place), rng.gamma(3, 1 / 3, count), 0.95)
    points = _apart(_scattered(rng, 300, *place), 2 * _SPOTS)
    alone = _SPOTS - round(traits["spots_on_granules"] * _SPOTS)
    spots = _dots(points[:_SPOTS], rng.gamma(6, 1 / 6, _SPOTS), 1.35)
    granules = 1.4 * small + 26.0 * _dots(points[alone : alone + _SPOTS], np.ones(_SPOTS), 1.6)
    delay = (
        _DELAY_PER_UM
        * height_um
        * (_CYTOPLASM_INDEX * body + _NUCLEUS_INDEX * nucleus_ratio * kernel)
        + 1.1 * chromatin
        + granules
    )
    # as bright in total whatever the size and the spots
    share = traits["glow_in_spots"]
    glow = (1 - share) * cytoplasm / cytoplasm.sum() + share * spots / spots.sum()
    inside = distance < 1
    return Cell(
        delay.astype(np.float32),
        glow.astype(np.float32),
        inside,
        inside & (within < 1),
        inside & (granules > 0.15),
    )


def _scattered(
    rng: np.random.Generator,
    count: int,
    offset_px: tuple[float, float],
    radius_px: float,
    nucleus_px: tuple[float, float],
    nucleus_ratio: float,
) -> np.ndarray:
    """Scatter points through the cytoplasm in depth and look at them from above: (N, 2)."""
    points = rng.normal(size=(count, 3))
    points *= (
        0.92
        * radius_px
        * rng.uniform(size=(count, 1)) ** (1 / 3)
        / np.linalg.norm(points, axis=1, keepdims=True)
    )
    points[:, :2] += offset_px
    from_nucleus = points - (*nucleus_px, 0)
    outside = np.linalg.norm(from_nucleus, axis=1) > radius_px * nucleus_ratio
    return points[outside, :2]


def _apart(points: np.ndarray, count: int) -> np.ndarray:
    """Take the first points (count, 2) that lie 3.5 px apart, seen from above."""
    gaps = squareform(pdist(points)) > 3.5
    chosen = [0]
    for number in range(1, len(points)):
        if len(chosen) < count and gaps[number, chosen].all():
            chosen.append(number)
    return points[chosen]


def _dots(points: np.ndarray, weights: np.ndarray, blur_px: float) -> np.ndarray:
    """Draw points of some weights, the first ones', as blurred dots in a window."""
    window = np.zeros((SIDE, SIDE), np.float32)
    rows, columns = np.rint(points).astype(int).T + SIDE // 2
    np.add.at(window, (rows, columns), weights[: len(points)])
    return gaussian_filter(window, blur_px)


def debris(
    rng: np.random.Generator,
    size: int,
    density: float = 10,
    radii_px: tuple[float, float] = (1.5, 5),
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Scatter fragments smaller than cells: their delay, glow, centres and heights."""
    count = rng.poisson(density * (size / 640) ** 2)
    delay, glow = np.zeros((2, count, SIDE, SIDE), np.float32)
    for k in range(count):
        distance = outline(rng, tuple(rng.uniform(-1, 1, 2)), rng.uniform(*radii_px), 0.15)
        delay[k] = rng.uniform(0.8, 2.2) * np.exp(-(distance**4))
        glow[k] = (rng.uniform() < 0.3) * rng.uniform(0.05, 0.3) * delay[k] / delay[k].sum()
    return delay, glow, rng.integers(0, size, (count, 2)), rng.normal(0, 5, count)
