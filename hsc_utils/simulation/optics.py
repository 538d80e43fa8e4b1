"""What a label-free microscope makes of a specimen: gradients, defocus, light and noise.

A cell in suspension hardly absorbs; it delays light. `transmitted` carries the delayed
wave through the objective to the two transmitted-light slices, `glow_seen` blurs the
autofluorescence, `expose` records light with a 12-bit detector, and `render` takes the
whole picture. Distances are micrometres unless they are named ``_px``; light is in units
of the empty background.
"""

from typing import Any

import numpy as np
import pandas as pd
from scipy.fft import fft2, fftfreq, ifft2
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist

from hsc_utils.simulation.specimen import (
    PIXEL_SIZE_UM,
    SIDE,
    TRAITS,
    WAVELENGTH_UM,
    debris,
    draw_cell,
    generator,
)
from hsc_utils.simulation.traps import NO_ARTEFACTS, Artefacts, field_stop

OBJECTIVE = ("UPLXAPO20X", 20.0, 0.8)
SPREAD_SIDE = 96  # pixels, side of the window over which an object's light spreads; even
MAX_COUNT = 4095  # 12 bits
PARTS = ("inside", "nucleus", "granules")  # of a cell, see `render`

_NUMERICAL_APERTURE = 0.7  # of the objective at work, less than engraved
_CONDENSER_APERTURE = 0.12  # angular size of the light source: blurs defocused fringes
_BRIGHTFIELD_FOCUS_UM = 3.0
_SHEAR_UM = 0.38
_DUST_RADII_PX = (1.0, 2.5)

_FREQUENCY_Y = fftfreq(SPREAD_SIDE, PIXEL_SIZE_UM).astype(np.float32)[:, None]
_FREQUENCY_X = fftfreq(SPREAD_SIDE, PIXEL_SIZE_UM).astype(np.float32)[None, :]
_FREQUENCY_2 = _FREQUENCY_Y**2 + _FREQUENCY_X**2
_PUPIL = 1 / (1 + (np.sqrt(_FREQUENCY_2) * WAVELENGTH_UM / _NUMERICAL_APERTURE) ** 16)
_FROM_EDGE = SPREAD_SIDE / 2 - np.abs(np.arange(SPREAD_SIDE) - SPREAD_SIDE / 2)
_EDGE = np.clip(_FROM_EDGE / 16, 0, 1).astype(np.float32)
_TAPER = np.outer(*[_EDGE**2 * (3 - 2 * _EDGE)] * 2)


def transmitted(delay: np.ndarray, focus_um: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Say what each object adds to an even background of 1, in DIC and in brightfield."""
    margin = (SPREAD_SIDE - SIDE) // 2
    wave = fft2(np.exp(1j * np.pad(delay, ((0, 0), (margin, margin), (margin, margin)))) - 1)
    focus = focus_um.astype(np.float32)[:, None, None]
    return (
        _TAPER * _difference(wave, focus),
        _TAPER * _defocused(wave, focus + _BRIGHTFIELD_FOCUS_UM),
    )


def _propagated(wave: np.ndarray, distance_um: np.ndarray) -> np.ndarray:
    """Spectrum of the scattered wave after a distance (angular spectrum, within the pupil)."""
    axial = np.sqrt(np.clip(1 / WAVELENGTH_UM**2 - _FREQUENCY_2, 0, None)) - 1 / WAVELENGTH_UM
    return wave * _PUPIL * np.exp(2j * np.pi * distance_um * axial).astype(np.complex64)


def _coherence(distance_um: np.ndarray) -> np.ndarray:
    """Damping of fine fringes away from focus, because the light source is not a point."""
    return np.exp(-2 * (np.pi * _CONDENSER_APERTURE * distance_um) ** 2 * _FREQUENCY_2)


def _defocused(wave: np.ndarray, distance_um: np.ndarray) -> np.ndarray:
    intensity = np.abs(1 + ifft2(_propagated(wave, distance_um))) ** 2 - 1
    return ifft2(fft2(intensity) * _coherence(distance_um)).real


def _difference(wave: np.ndarray, distance_um: np.ndarray) -> np.ndarray:
    """Interference of the wave with itself, sheared along the diagonal, a quarter wave apart."""
    ramp = np.exp(1j * np.pi * _SHEAR_UM * (_FREQUENCY_Y + _FREQUENCY_X) / 2**0.5)
    spectrum = _propagated(wave, distance_um)
    ahead, behind = 1 + ifft2(spectrum * ramp), 1 + ifft2(spectrum * ramp.conj())
    intensity = np.abs(ahead - 1j * behind) ** 2 / 2 - 1
    return ifft2(fft2(intensity) * _coherence(distance_um)).real


def glow_seen(glow: np.ndarray, focus_um: float) -> np.ndarray:
    """Blur an object's autofluorescence by the objective and by its distance from focus."""
    wide = np.pad(glow, (SPREAD_SIDE - SIDE) // 2)
    return gaussian_filter(wide, 0.9 + 0.9 * abs(focus_um), mode="constant")


def add_objects(field: np.ndarray, windows: np.ndarray, corners: np.ndarray) -> None:
    """Add windows to a field of view in place, first pixels at `corners`, cut at its border."""
    (height, width), side = field.shape, windows.shape[-1]
    for window, (top, left) in zip(windows, corners, strict=True):
        field[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] += window[
            max(-top, 0) : max(height - top, 0), max(-left, 0) : max(width - left, 0)
        ]


def shading(size: int, centre: tuple[float, float], falloff: float) -> np.ndarray:
    """Uneven illumination: 1 on average, falling off from a centre (fractions of the side)."""
    along = np.arange(size, dtype=np.float32) / size
    light = 1 - falloff * np.add.outer((along - centre[0]) ** 2, (along - centre[1]) ** 2)
    return (light / light.mean()).astype(np.float32)


def expose(
    rng: np.random.Generator,
    light: np.ndarray,
    *,
    counts: float,
    photons: float,
    offset: float,
    read_noise: float,
    stop: float | np.ndarray = 1.0,
) -> np.ndarray:
    """Record light with a 12-bit detector: a light of 1 gives so many photons and grey levels.

    A `stop` dims what has arrived, so that where it is 1 the noise is what it is without it.
    """
    arrived = rng.poisson(np.clip(light, 0, None) * photons)
    levels = arrived * (counts / photons) * stop + offset
    levels = levels + read_noise * rng.standard_normal(light.shape, np.float32)
    return np.clip(np.rint(levels), 0, MAX_COUNT).astype(np.uint16)


def render(
    cells: pd.DataFrame,
    slices: int,
    day: int,
    size: int,
    seed: int,
    artefacts: Artefacts = NO_ARTEFACTS,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Take the picture of `draw_cells`: its slices, and label images of the cells' parts.

    Label images (0: none) are those of the whole cells, ``inside``, their ``nucleus`` and
    their ``granules``.
    """
    rng = generator(seed, cells["source"].iloc[0], "pixels")
    centres = cells[["y", "x"]].to_numpy()
    nearest = np.rint(centres).astype(int)
    # Python's numbers, not NumPy's: those would turn single precision into double.
    drawn = [
        draw_cell(rng, tuple(offset), traits)
        for offset, traits in zip(
            (centres - nearest).tolist(), cells[list(TRAITS)].to_dict("records"), strict=True
        )
    ]
    glow = np.stack([cell.glow for cell in drawn]) * rng.lognormal(0, 0.35, (len(drawn), 1, 1))
    debris_delay, debris_glow, debris_at, debris_focus = (
        np.concatenate(both)
        for both in zip(debris(rng, size), _dust(cells, size, seed, artefacts.dust), strict=True)
    )
    corners = np.concatenate([nearest, debris_at]) - SPREAD_SIDE // 2
    focus = np.concatenate([cells["focus_um"].to_numpy(), debris_focus])
    added = (
        *transmitted(np.concatenate([[cell.delay for cell in drawn], debris_delay]), focus),
        np.stack(list(map(glow_seen, np.concatenate([glow, debris_glow]), focus))),
    )
    light = [np.full((size, size), level, np.float32) for level in (1, 1, 0)]
    for field, windows in zip(light, added, strict=True):
        add_objects(field, windows.astype(np.float32), corners)
    parts = {name: np.zeros((size, size), np.uint16) for name in PARTS}
    for label, at, cell in zip(cells["label"], nearest - SIDE // 2, drawn, strict=True):
        free = parts["inside"] == 0
        for name, labels in parts.items():
            here = np.zeros((size, size), np.float32)
            add_objects(here, getattr(cell, name)[None].astype(np.float32), at[None])
            labels[(here > 0) & free] = label
    return np.stack(_expose_slices(rng, light, day, size, seed, artefacts)[:slices]), parts


def _dust(
    cells: pd.DataFrame, size: int, seed: int, density: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Scatter specks of dust as `debris` does, where no cell lies."""
    rng = generator(seed, cells["source"].iloc[0], "dust")
    specks = debris(rng, size, density, _DUST_RADII_PX)
    gaps = cdist(specks[2], cells[["y", "x"]]) - cells["radius_px"].to_numpy()
    free = gaps.min(axis=1) > 2 * _DUST_RADII_PX[1]
    return tuple(column[free] for column in specks)


def day_light(seed: int, day: int, vivid: bool = False) -> dict[str, Any]:
    """Say what a day does to its pictures.

    ``gains`` of the four slices and grey levels to ``add`` to them, the ``middle`` (fractions of
    the side) and ``falloff`` of the illumination (see `shading`), and the ``tilt`` of the light in
    DIC from side to side. Vivid days are seen at a glance.
    """
    rng = generator(seed, "day", day)
    if vivid:
        gains, middle = rng.lognormal(0, 0.3, 4), rng.uniform(0.2, 0.8, 2)
        falloff, tilt = rng.uniform(0.1, 0.5), rng.uniform(0, 0.25)
        add = rng.uniform(0, (500, 500, 250, 50))
    else:
        gains, middle = rng.lognormal(0, 0.08, 4), rng.uniform(0.35, 0.65, 2)
        falloff, tilt = rng.uniform(0.25, 0.45), rng.uniform(0.02, 0.1)
        add = np.zeros(4)
    return {"gains": gains, "middle": middle, "falloff": falloff, "tilt": tilt, "add": add}


def _expose_slices(
    rng: np.random.Generator,
    light: list[np.ndarray],
    day: int,
    size: int,
    seed: int,
    artefacts: Artefacts,
) -> list[np.ndarray]:
    """Put the four slices through the day's illumination, gains and detector."""
    of_day = day_light(seed, day, artefacts.vivid_day)
    gains = of_day["gains"] * rng.lognormal(0, 0.04, 4)
    shade = shading(size, tuple(of_day["middle"] + rng.normal(0, 0.02, 2)), of_day["falloff"])
    tilt = 1 + np.linspace(-0.5, 0.5, size, dtype=np.float32) * of_day["tilt"]
    dic, brightfield, glow = light
    # grey levels of a typical cell in total, and of the medium, which differs from field to field
    across = 1 + np.linspace(-0.5, 0.5, size, dtype=np.float32) * artefacts.slope
    glow = 350000 * glow + 120 * rng.lognormal(0, 0.35) * across
    offsets = (100, 100, 100, 40) + of_day["add"]
    camera = {"stop": field_stop(size, artefacts.rim), "read_noise": 4}
    for_dic = camera | {"counts": 1500 * gains[0], "photons": 2500}
    for_brightfield = camera | {"counts": 1700 * gains[1], "photons": 4000}
    weak = camera | {"photons": 1 / 12, "counts": 1.0, "read_noise": 5}
    return [
        expose(rng, dic * tilt * tilt[:, None], offset=offsets[0], **for_dic),
        expose(rng, brightfield * shade, offset=offsets[1], **for_brightfield),
        expose(rng, glow * shade * gains[2], offset=offsets[2], **weak),
        expose(rng, 0.02 * glow * gains[3], offset=offsets[3], **weak),
    ]
