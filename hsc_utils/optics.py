"""What a label-free microscope makes of a cell: phase, defocus, gradients, light, noise.

A cell in suspension hardly absorbs; it delays light. `cell_delay` draws that delay (a
sphere of cytoplasm, a nucleus of lower index, granules); `transmitted` carries the
delayed wave through the objective and returns the two transmitted-light slices;
`glow_seen` blurs the autofluorescence; `expose` adds uneven light and the camera. Distances are
micrometres unless they are named ``_px``; delays are radians; light is in units of the
empty background.
"""

import numpy as np
from scipy.fft import fft2, fftfreq, ifft2
from scipy.ndimage import gaussian_filter

PIXEL_SIZE_UM = 0.31
OBJECTIVE = ("UPLXAPO20X", 20.0, 0.8)
SIDE = 64  # pixels, side of the window in which one object is drawn; even
SPREAD_SIDE = 96  # of the window over which its light spreads, about the same centre; even
MAX_COUNT = 4095  # 12 bits

_WAVELENGTH_UM = 0.55
_NUMERICAL_APERTURE = 0.7  # of the objective at work, less than engraved
_CONDENSER_APERTURE = 0.12  # angular size of the light source: blurs defocused fringes
_BRIGHTFIELD_FOCUS_UM = 3.0
_SHEAR_UM = 0.38
_CYTOPLASM_INDEX = 0.026  # refractive index above the medium's
_NUCLEUS_INDEX = -0.007  # above the cytoplasm's
_DELAY_PER_UM = 2 * np.pi / _WAVELENGTH_UM

_FREQUENCY_Y = fftfreq(SPREAD_SIDE, PIXEL_SIZE_UM).astype(np.float32)[:, None]
_FREQUENCY_X = fftfreq(SPREAD_SIDE, PIXEL_SIZE_UM).astype(np.float32)[None, :]
_FREQUENCY_2 = _FREQUENCY_Y**2 + _FREQUENCY_X**2
_PUPIL = 1 / (1 + (np.sqrt(_FREQUENCY_2) * _WAVELENGTH_UM / _NUMERICAL_APERTURE) ** 16)
_FROM_EDGE = SPREAD_SIDE / 2 - np.abs(np.arange(SPREAD_SIDE) - SPREAD_SIDE / 2)
_EDGE = np.clip(_FROM_EDGE / 16, 0, 1).astype(np.float32)
_TAPER = np.outer(*[_EDGE**2 * (3 - 2 * _EDGE)] * 2)


def outline(
    rng: np.random.Generator, offset_px: tuple[float, float], radius_px: float, roughness: float
) -> np.ndarray:
    """Draw a closed, nearly round outline.

    Parameters
    ----------
    rng : Generator
        Decides the shape.
    offset_px : (float, float)
        Centre relative to the middle of the window: rows, columns.
    radius_px : float
        Mean radius.
    roughness : float
        Relative amplitude of the deviations from a circle.

    Returns
    -------
    float32 array of shape (SIDE, SIDE)
        Distance from the centre, 1 on the outline, below 1 inside.
    """
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
    """Draw one cell: how it delays light, and where it glows.

    Parameters
    ----------
    rng : Generator
        Decides shape, chromatin and granules.
    offset_px : (float, float)
        Centre relative to the middle of the window: rows, columns.
    radius_px : float
        Mean radius of the cell.
    nucleus_ratio : float
        Radius of the nucleus over that of the cell, 0 to 1.
    granularity : float
        Granules in the cytoplasm, relative to a typical cell.

    Returns
    -------
    delay : float32 array of shape (SIDE, SIDE)
        Radians.
    glow : float32 array of shape (SIDE, SIDE)
        Autofluorescence, summing to 1: it sits in cytoplasm and granules, and is as
        bright in total whatever the size.
    inside : bool array of shape (SIDE, SIDE)
        The pixels of the cell.
    """
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
    glow = cytoplasm * height_um + 8 * granules
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


def transmitted(delay: np.ndarray, focus_um: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Carry light through objects and the objective to the two transmitted-light slices.

    Parameters
    ----------
    delay : float32 array of shape (objects, SIDE, SIDE)
        Radians.
    focus_um : float array of shape (objects,)
        Height of each object above the focal plane.

    Returns
    -------
    dic, brightfield : float32 arrays of shape (objects, SPREAD_SIDE, SPREAD_SIDE)
        What each object adds to an even background of 1: with differential interference
        contrast, and in brightfield away from focus.
    """
    margin = (SPREAD_SIDE - SIDE) // 2
    wave = fft2(np.exp(1j * np.pad(delay, ((0, 0), (margin, margin), (margin, margin)))) - 1)
    focus = focus_um.astype(np.float32)[:, None, None]
    return (
        _TAPER * _difference(wave, focus),
        _TAPER * _defocused(wave, focus + _BRIGHTFIELD_FOCUS_UM),
    )


def _propagated(wave: np.ndarray, distance_um: np.ndarray) -> np.ndarray:
    """Spectrum of the scattered wave after a distance (angular spectrum, within the pupil)."""
    axial = np.sqrt(np.clip(1 / _WAVELENGTH_UM**2 - _FREQUENCY_2, 0, None)) - 1 / _WAVELENGTH_UM
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
    """Add each window to a field of view in place, cutting what lies outside.

    Parameters
    ----------
    field : float32 array of shape (height, width)
        Changed in place.
    windows : float32 array of shape (objects, side, side)
        What to add.
    corners : int array of shape (objects, 2)
        Row and column of each window's first pixel; may lie outside the field.
    """
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
) -> np.ndarray:
    """Record light with a 12-bit detector: photon noise, read noise, offset, saturation.

    Parameters
    ----------
    rng : Generator
        Decides the noise.
    light : float array
        Light in units of the background; negative light is none.
    counts, photons : float
        Grey levels and photons that a light of 1 gives.
    offset, read_noise : float
        Grey levels without light, and their standard deviation.

    Returns
    -------
    uint16 array, 0 to 4095
    """
    arrived = rng.poisson(np.clip(light, 0, None) * photons)
    levels = arrived * (counts / photons) + offset
    levels = levels + read_noise * rng.standard_normal(light.shape, np.float32)
    return np.clip(np.rint(levels), 0, MAX_COUNT).astype(np.uint16)
