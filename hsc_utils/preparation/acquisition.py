"""One microscope file → its slices → one RGB image.

A *slice* is one grayscale plane of an acquisition: an optical configuration (channel) or a
focal plane. The kind of file is recognised by its first bytes, whatever its name.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from hsc_utils.manifest import expect
from hsc_utils.preparation.formats import (
    AcquisitionError,
    Facts,
    Recording,
    file_named,
    read_recording,
)
from hsc_utils.preparation.sources import channel_files

FRAMES, FILES = "T", "files"  # words in `slices`: frames are slices, files are slices
_TO_8_BIT = ("bit_depth", "fixed", "image", "slice", "own_depth")
_BY_DEPTH = ("bit_depth", "own_depth")
_PERCENTILES = (0.1, 99.9)


@dataclass(frozen=True)
class ImageSettings:
    """How an acquisition becomes an image; see `read_acquisition` and `compose_rgb`."""

    slices: Sequence[int | str] = ()  # which to use, in which order; empty for all
    bit_depth: int | None = None  # significant bits of all 16-bit files, whatever they say
    to_8_bit: str = "bit_depth"
    limits: Sequence[float] | None = None
    size: int | None = None  # side in pixels that square images are resized to; None keeps theirs


@dataclass(frozen=True)
class Acquisition(Facts):
    """The slices of one file and what its metadata say of them."""

    slices: NDArray[np.uint8] | NDArray[np.uint16]  # (S, Y, X), in acquisition order or as asked
    bit_depth: int  # significant bits of a pixel, 1 to 16
    channel_names: tuple[str, ...]  # one a slice, such as DIC or Z=2
    selected: bool = False  # whether the caller said which slices to use
    composed: bool = False  # whether the file was a ready RGB image; slices are then R, G and B


def read_acquisition(
    path: str | Path, *, slices: Sequence[int | str] = (), bit_depth: int | None = None
) -> Acquisition:
    """Read one ``.oir``, TIFF, OME-TIFF, PNG or JPEG file, with the other files of its set.

    Parameters
    ----------
    slices : sequence of int or str
        Which slices to use and in which order; empty takes all. An integer counts slices from
        0 in acquisition order. A text is a channel name or label (``DIC``: every plane of that
        channel), a position on an axis (``Z=1``: that plane of every channel), or such an
        integer. Two words say where slices come from: ``T``, that the frames of a stack are
        slices (Fiji saves some stacks so); ``files``, that each channel lies in a file of its
        own (``f_C0.tif``, ``f_C1.tif``), which are joined.
    bit_depth : int, optional
        Significant bits of a pixel, 9 to 16, for 16-bit files whose metadata do not say (many
        cameras store 12 bits in 16); overrides the file.

    Raises
    ------
    AcquisitionError
        If the file is missing, damaged, without a part of its set, or no single grayscale or
        RGB acquisition; if `slices` leaves open which to use; if pixels exceed the bit depth.
    """
    expect(isinstance(path, str | Path), "path", path, "the path of one file")
    listed = isinstance(slices, list | tuple) and all(isinstance(s, int | str) for s in slices)
    expect(listed, "slices", slices, "a list of numbers or names, such as ['DIC'],")
    known = bit_depth is None or bit_depth in range(1, 17)
    expect(known, "bit_depth", bit_depth, "a whole number from 9 to 16")
    path = Path(path)
    with file_named(path):
        recording = _joined(path) if FILES in slices else read_recording(path)
        words = () if {FRAMES, FILES} & {*recording.channel_names} else (FRAMES, FILES)
        chosen = [wanted for wanted in slices if wanted not in words]
        planes, names = _planes(recording, chosen, frames=FRAMES in slices)
        depth = _bit_depth(planes, recording.bit_depth, bit_depth)
    composed = recording.axes == "SYX" and not chosen
    facts = {field.name: getattr(recording, field.name) for field in fields(Facts)}
    return Acquisition(planes, depth, names, bool(chosen), composed, **facts)


def read_picture(path: str | Path, settings: ImageSettings | None = None) -> NDArray[np.uint8]:
    """Read a ready picture, such as a cell that somebody cut out, as RGB (Y, X, 3) of uint8.

    The rules are those for acquisitions, but a single gray plane fills R, G and B alike, and
    16-bit pixels that use a small part of their range are refused unless something says how
    many bits count: one picture cannot tell dark from 12 bits.
    """
    how = settings or ImageSettings()
    one = read_acquisition(path, slices=how.slices, bit_depth=how.bit_depth)
    with file_named(Path(path)):
        brightest = int(one.slices.max())
        unsaid = how.bit_depth is None and how.to_8_bit in _BY_DEPTH and one.bit_depth == 16
        if unsaid and brightest < 2**14:
            raise AcquisitionError(
                f"Its pixels reach {brightest} of 65535, and nothing says how many of its bits "
                "count. Say so with the parameter `bit_depth` (often 12)."
            )
        if len(one.slices) == 1 and not one.selected:
            one = replace(one, slices=np.repeat(one.slices, 3, axis=0))
        return compose_rgb(one, to_8_bit=how.to_8_bit, limits=how.limits)


def _joined(path: Path) -> Recording:
    """Read one file per channel, those whose names differ from `path` in the channel alone."""
    files = channel_files(path)
    if len(files) < 2:
        raise AcquisitionError(
            "It has no files to join (slices: files): no name beside it differs in the channel "
            "alone, as f_C0.tif and f_C1.tif do."
        )
    recordings = [read_recording(path.with_name(file)) for file in files.values()]
    first = recordings[0]
    side = first.pixels.shape[-2:]
    for file, one in zip(files.values(), recordings, strict=True):
        kind = one.pixels.size, one.pixels.shape[-2:], one.pixels.dtype, one.bit_depth
        if kind != (math.prod(side), side, first.pixels.dtype, first.bit_depth):
            raise AcquisitionError(
                f"{file} differs in size or bit depth from the other channels, or in its planes."
            )
    return replace(
        first,
        pixels=np.stack([one.pixels.reshape(side) for one in recordings]),
        axes="CYX",
        channel_names=(*files,),
        labels=(),
        lossy=any(one.lossy for one in recordings),
    )


def compose_rgb(
    acquisition: Acquisition, *, to_8_bit: str = "bit_depth", limits: Sequence[float] | None = None
) -> NDArray[np.uint8]:
    """Put the slices of an acquisition into the channels of an RGB image.

    Two slices become R and G with B = 0; three become R, G and B; of four the last, almost
    black in the paper's data, is dropped (preprint, data preparation); other numbers are
    refused. One to three slices that the caller selected fill R, G and B in their order.

    Parameters
    ----------
    to_8_bit : {"bit_depth", "own_depth", "fixed", "image", "slice"}
        What becomes 0–255, where slices have more than 8 bits. For all images: ``bit_depth``,
        the camera's full range; ``fixed``, `limits`. Of each image: ``own_depth``, its own full
        range, where cameras differ; or, so that two cannot be compared, ``image``, percentiles
        of its used slices together, and ``slice``, of each slice by itself.
    limits : (float, float), optional
        Raw intensities for ``fixed``; percentiles, by default 0.1 and 99.9, for ``image``
        and ``slice``.

    Returns
    -------
    ndarray of uint8, shape (Y, X, 3)
    """
    if not isinstance(acquisition, Acquisition) or acquisition.slices.dtype.kind != "u":
        raise ValueError(
            f"acquisition is {type(acquisition).__name__}, but what read_acquisition returns was "
            "expected, with slices of uint8 or uint16."
        )
    count, names = len(acquisition.slices), ", ".join(acquisition.channel_names[:12])
    if acquisition.selected and count > 3:
        raise AcquisitionError(
            f"{count} slices were selected ({names}), but an RGB image takes one to three. Name "
            "fewer in the parameter `slices`."
        )
    if not acquisition.selected and count not in (2, 3, 4):
        raise AcquisitionError(
            f"It holds {count} slice{'s' * (count > 1)} ({names}), but 2, 3 or 4 were expected. "
            "Say which to use with the parameter `slices`."
        )
    slices = acquisition.slices[:3]
    ranges = _ranges(slices, acquisition.bit_depth, to_8_bit, limits)
    if slices.dtype != np.uint8 or acquisition.bit_depth < 8:
        slices = [_scaled(plane, *r) for plane, r in zip(slices, ranges, strict=True)]
    black = np.zeros(slices[0].shape, np.uint8)
    return cv2.merge([*slices, *[black] * (3 - len(slices))])


def read_image(path: str | Path, settings: ImageSettings) -> tuple[NDArray[np.uint8], Acquisition]:
    """Read one acquisition and make its image as step 01 does: RGB (Y, X, 3), and the acquisition.

    Raises
    ------
    AcquisitionError
        If it cannot be read, composed, or resized.
    """
    path = Path(path)
    one = read_acquisition(path, slices=settings.slices, bit_depth=settings.bit_depth)
    with file_named(path):
        rgb = compose_rgb(one, to_8_bit=settings.to_8_bit, limits=settings.limits)
        height, width = rgb.shape[:2]
        if settings.size and (height, width) != (settings.size, settings.size):
            if height != width:
                raise AcquisitionError(
                    f"It is {height} × {width} pixels, not square, so it cannot be resized to "
                    f"{settings.size}. Set size to None to keep images as they are."
                )
            rgb = cv2.resize(rgb, (settings.size, settings.size), interpolation=cv2.INTER_AREA)
    return rgb, one


def fourth_slice_contrast(acquisition: Acquisition) -> float:
    """Return the contrast of a dropped fourth slice as a share of the best kept one's, or NaN."""
    if len(acquisition.slices) != 4 or acquisition.selected:
        return math.nan
    # Every fourth pixel of every fourth row will do, and a few hot ones must not count.
    low, high = np.percentile(acquisition.slices[:, ::4, ::4], [0.5, 99.5], axis=(1, 2))
    contrast = high - low
    return float(contrast[3] / max(contrast[:3].max(), 1.0))


def _planes(
    recording: Recording, slices: Sequence[int | str], frames: bool
) -> tuple[NDArray, tuple[str, ...]]:
    """Flatten every axis but Y and X into slices, in acquisition order, and select."""
    held = dict(zip(recording.axes, recording.pixels.shape, strict=True))
    if held.get("T", 1) > 1 and not frames and not any(str(s).startswith("T=") for s in slices):
        raise AcquisitionError(
            f"It is a time lapse of {held['T']} frames, not one acquisition. If its slices were "
            "saved as frames, as Fiji does with some stacks, add T to the parameter `slices`."
        )
    planes = recording.pixels.reshape(-1, held.pop("Y"), held.pop("X"))
    positions = [dict(zip(held, index, strict=True)) for index in np.ndindex(*held.values())]
    names = [_slice_name(position, held, recording.channel_names) for position in positions]
    if len(recording.labels) == len(names):
        names = [label or name for label, name in zip(recording.labels, names, strict=True)]
    listing = "; ".join(f"{k}: {name}" for k, name in enumerate(names[:24]))
    listing += "; …" * (len(names) > 24)
    if not slices:
        long_axes = [f"{n} along {axis}" for axis, n in held.items() if n > 1]
        if len(long_axes) > 1:
            raise AcquisitionError(
                f"It is ambiguous: it holds {' times '.join(long_axes)} = {len(names)} slices "
                f"({listing}). Say which to use with the parameter `slices`, by number, channel "
                "name or axis (such as Z=1)."
            )
        return planes, tuple(names)
    chosen = []
    for wanted in slices:
        axis, _, at = str(wanted).partition("=")
        if isinstance(wanted, str) and wanted in recording.channel_names:
            channel = recording.channel_names.index(wanted)
            found = [k for k, p in enumerate(positions) if p.get("C", p.get("S")) == channel]
        elif wanted in names:
            found = [k for k, name in enumerate(names) if name == wanted]
        elif at.isdecimal():
            found = [k for k, p in enumerate(positions) if p.get(axis) == int(at)]
        else:
            found = [k for k in range(len(names)) if str(k) == str(wanted)]
        if not found:
            raise AcquisitionError(
                f"It has no slice {wanted!r} (parameter `slices`). It holds {listing}."
            )
        chosen += found
    return planes[chosen], tuple(names[k] for k in chosen)


def _slice_name(position: dict[str, int], held: dict[str, int], channels: tuple[str, ...]) -> str:
    """Name a slice by what tells it from the others: its channel, its place on long axes."""
    parts = [
        channels[k] if axis in "CS" and k < len(channels) else f"{axis}={k}"
        for axis, k in position.items()
        if held[axis] > 1 or (axis in "CS" and channels)
    ]
    return ", ".join(parts) or "0"


def _bit_depth(planes: NDArray, stated: int | None, asked: int | None) -> int:
    """Return the significant bits, and refuse pixels that exceed them."""
    if planes.dtype == np.uint8:
        return min(stated or 8, 8)
    depth = asked or stated or 16
    brightest = int(planes.max(initial=0))
    if not 1 <= depth <= 16 or brightest >= 1 << depth:
        raise AcquisitionError(
            f"Its pixels reach {brightest}, but its bit depth is said to be {depth}. The file is "
            "damaged, or the parameter `bit_depth` is too small."
        )
    return depth


def _ranges(
    slices: NDArray, bit_depth: int, to_8_bit: str, limits: Sequence[float] | None
) -> list[tuple[float, float]]:
    """Return for each slice the raw intensities that become 0 and 255."""
    expect(to_8_bit in _TO_8_BIT, "to_8_bit", to_8_bit, f"one of {', '.join(_TO_8_BIT)}")
    if to_8_bit in _BY_DEPTH:
        return [(0, (1 << bit_depth) - 1)] * len(slices)
    fixed = to_8_bit == "fixed"
    if fixed and not limits:
        raise ValueError("to_8_bit='fixed' needs limits: the raw intensities for 0 and 255.")
    limits = limits or _PERCENTILES
    least, most = (-math.inf, math.inf) if fixed else (0, 100)
    numbers = not isinstance(limits, str) and all(isinstance(x, int | float) for x in limits)
    # Comparisons with NaN are false, so this asks what must hold.
    if not (numbers and len(limits) == 2 and least <= limits[0] < limits[1] <= most):
        raise ValueError(
            f"limits are {limits!r}, but two were expected, the first the smaller"
            f"{', both percentiles from 0 to 100' * (not fixed)}."
        )
    if fixed:
        return [tuple(limits)] * len(slices)
    if to_8_bit == "image":
        return [_percentiles(slices, *limits)] * len(slices)
    return [_percentiles(plane[None], *limits) for plane in slices]


def _percentiles(planes: NDArray, low: float, high: float) -> tuple[float, float]:
    """Return two percentiles by counting: exact, and much faster than sorting the pixels."""
    levels = int(planes.max()) + 1
    counts = [np.bincount(plane.ravel(), minlength=levels) for plane in planes]
    cumulative = np.sum(counts, axis=0).cumsum()
    ranks = np.array([low, high]) / 100 * (cumulative[-1] - 1)
    first, last = np.searchsorted(cumulative, np.round(ranks), side="right")
    return float(first), float(last)


def _scaled(plane: NDArray, low: float, high: float) -> NDArray[np.uint8]:
    """Map low…high to 0…255 through a table, which is faster than arithmetic on the pixels."""
    values = np.arange(int(plane.max(initial=0)) + 1, dtype=np.float64)
    table = np.clip((values - low) * (255 / max(high - low, 1e-9)), 0, 255)
    return np.take(np.round(table).astype(np.uint8), plane)
