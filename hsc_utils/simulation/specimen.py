"""What lies on the simulated slide: cells of three classes, and debris.

Class shows in size, granularity and nucleus, with overlap, and in nothing else: the total
autofluorescence of a cell, its height above the focal plane and what lies around it are
drawn alike for all. Delays of light are in radians; distances named ``_px`` in pixels,
``offset_px`` (row, column) from the middle of the window of SIDE x SIDE pixels that holds
one object.
"""

import zlib

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter

PIXEL_SIZE_UM = 0.31
WAVELENGTH_UM = 0.55
SIDE = 64  # pixels, side of the window in which one object is drawn; even

# Mean radius (px), nucleus over cell, granularity, and cells in a field of 640 x 640 px.
CLASSES = {
    "LT-HSC": (13.9, 0.80, 0.55, 12),
    "ST-HSC": (15.2, 0.74, 1.45, 34),
    "MPP": (17.0, 0.66, 0.85, 12),
}
_RADIUS_SPREAD, _NUCLEUS_SPREAD, _GRANULARITY_SPREAD = 1.15, 0.04, 0.3
_OUT_OF_FOCUS = 0.12
_TOUCHING = 0.15
_CYTOPLASM_INDEX = 0.026  # refractive index above the medium's
_NUCLEUS_INDEX = -0.007  # above the cytoplasm's
_DELAY_PER_UM = 2 * np.pi / WAVELENGTH_UM


def generator(seed: int, *key: object) -> np.random.Generator:
    """Return the random numbers that belong to a seed and a key, the same in every process."""
    return np.random.default_rng([seed, zlib.crc32("/".join(map(str, key)).encode())])


def draw_cells(source: str, class_name: str, size: int, seed: int) -> pd.DataFrame:
    """Decide where the cells of one acquisition lie and what they are like, one row a cell."""
    rng = generator(seed, source, "cells")
    mean_radius, nucleus, granules, density = CLASSES[class_name]
    wanted = max(1, rng.poisson(density * (size / 640) ** 2 * rng.uniform(0.75, 1.25)))
    radius = np.clip(rng.normal(mean_radius, _RADIUS_SPREAD, wanted), 11.5, 20.5)
    centres = _place(rng, radius, size)
    radius, count = radius[: len(centres)], len(centres)
    far = rng.uniform(size=count) < _OUT_OF_FOCUS
    away = rng.choice([-1, 1], count) * rng.uniform(4, 8, count)
    return pd.DataFrame(
        {
            "source": source,
            "label": np.arange(1, count + 1),
            "y": centres[:, 0].round(3),
            "x": centres[:, 1].round(3),
            "radius_px": radius.round(3),
            "class": class_name,
            "in_focus": ~far,
            "focus_um": np.where(far, away, rng.normal(0, 0.5, count)).round(3),
            "nucleus_ratio": np.clip(rng.normal(nucleus, _NUCLEUS_SPREAD, count), 0.5, 0.9),
            "granularity": granules * rng.lognormal(0, _GRANULARITY_SPREAD, count),
        }
    )


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


def cell_delay(
    rng: np.random.Generator,
    offset_px: tuple[float, float],
    radius_px: float,
    nucleus_ratio: float,
    granularity: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw one cell in a window: how it delays light, where it glows, and which pixels it is."""
    distance = outline(rng, offset_px, radius_px, 0.035)
    body = np.sqrt(np.clip(1 - distance**2, 0, None))
    room = radius_px * (1 - nucleus_ratio) * 0.8
    turn, shift = rng.uniform(0, 2 * np.pi), room * np.sqrt(rng.uniform())
    centre = (offset_px[0] + shift * np.sin(turn), offset_px[1] + shift * np.cos(turn))
    kernel = np.sqrt(
        np.clip(1 - outline(rng, centre, radius_px * nucleus_ratio, 0.06) ** 2, 0, None)
    )
    height_um = 2 * radius_px * PIXEL_SIZE_UM
    cytoplasm = np.clip(body - nucleus_ratio * kernel, 0, None)
    chromatin = gaussian_filter(rng.standard_normal((SIDE, SIDE), np.float32), 1.6) * kernel
    granules = _granules(rng, offset_px, radius_px, centre, nucleus_ratio, granularity)
    delay = (
        _DELAY_PER_UM
        * height_um
        * (_CYTOPLASM_INDEX * body + _NUCLEUS_INDEX * nucleus_ratio * kernel)
        + 1.1 * chromatin
        + 2.0 * granules
    )
    glow = cytoplasm * height_um + 8 * granules  # as bright in total whatever the size
    return delay.astype(np.float32), (glow / glow.sum()).astype(np.float32), distance < 1


def _granules(
    rng: np.random.Generator,
    offset_px: tuple[float, float],
    radius_px: float,
    nucleus_px: tuple[float, float],
    nucleus_ratio: float,
    granularity: float,
) -> np.ndarray:
    """Scatter granules through the cytoplasm in depth and look at them from above."""
    count = rng.poisson(60 * granularity * (radius_px / 15) ** 2)
    points = rng.normal(size=(count, 3))
    points *= (
        0.92
        * radius_px
        * rng.uniform(size=(count, 1)) ** (1 / 3)
        / np.linalg.norm(points, axis=1, keepdims=True)
    )
    points[:, :2] += offset_px
    from_nucleus = points - (*nucleus_px, 0)
    points = points[np.linalg.norm(from_nucleus, axis=1) > radius_px * nucleus_ratio]
    deposits = np.zeros((SIDE, SIDE), np.float32)
    rows, columns = np.rint(points[:, :2]).astype(int).T + SIDE // 2
    np.add.at(deposits, (rows, columns), rng.gamma(3, 1 / 3, len(points)))
    return gaussian_filter(deposits, 0.95)


def debris(
    rng: np.random.Generator, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Scatter fragments smaller than cells: their delay, glow, centres and heights."""
    count = 1 + rng.poisson(9 * (size / 640) ** 2)
    delay, glow = np.zeros((2, count, SIDE, SIDE), np.float32)
    for k in range(count):
        distance = outline(rng, tuple(rng.uniform(-1, 1, 2)), rng.uniform(1.5, 5), 0.15)
        delay[k] = rng.uniform(0.8, 2.2) * np.exp(-(distance**4))
        glow[k] = (rng.uniform() < 0.3) * rng.uniform(0.05, 0.3) * delay[k] / delay[k].sum()
    return delay, glow, rng.integers(0, size, (count, 2)), rng.normal(0, 5, count)
