"""One microscope file → its slices → one RGB image.

A *slice* is one grayscale plane of an acquisition: an optical configuration (channel) or a
focal plane. The kind of file is recognised by its first bytes, whatever its name.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from hsc_utils.preparation.formats import AcquisitionError, Recording, file_named, read_recording
from hsc_utils.preparation.sources import channel_files

FRAMES, FILES = "T", "files"  # words in `slices`: frames are slices, files are slices
_TO_8_BIT = ("bit_depth", "fixed", "image", "slice", "own_depth")
_BY_DEPTH = ("bit_depth", "own_depth")
_PERCENTILES = (0.1, 99.9)


@dataclass(frozen=True)
class ImageSettings:
    """How an acquisition becomes an image; see `read_acquisition` and `compose_rgb`.

    Attributes
    ----------
    slices : tuple of int or str
        Which slices to use, in which order; empty for all.
    bit_depth : int, optional
        Significant bits of all 16-bit files, whatever they say.
    to_8_bit : {"bit_depth", "own_depth", "fixed", "image", "slice"}
        How more than 8 bits become 8.
    limits : (float, float), optional
        Raw intensities for ``fixed``, percentiles for ``image`` and ``slice``.
    size : int, optional
        Side in pixels that square images are resized to; None keeps their size.
    """

    slices: Sequence[int | str] = ()
    bit_depth: int | None = None
    to_8_bit: str = "bit_depth"
    limits: Sequence[float] | None = None
    size: int | None = None


@dataclass(frozen=True)
class Acquisition:
    """The slices of one file and what its metadata say of them.

    Attributes
    ----------
    slices : ndarray of uint8 or uint16, shape (S, Y, X)
        In acquisition order, or in the order asked for.
    bit_depth : int
        Significant bits of a pixel, 1 to 16.
    channel_names : tuple of str
        One name a slice, such as ``DIC``, ``Z=2`` or ``DIC, Z=2``.
    acquired_at : datetime or None
        Start of the acquisition by the microscope's clock.
    pixel_size_um : float or None
        Side of a pixel in micrometres.
    objective : str
        Name of the objective lens; empty where the file does not say.
    simulated : bool
        Whether the file says that it was simulated.
    selected : bool
        Whether the caller said which slices to use.
    composed : bool
        Whether the file was a ready RGB image; its slices are then R, G and B.
    lossy : bool
        Whether the file was compressed as JPEG, which loses detail.
    """

    slices: NDArray[np.uint8] | NDArray[np.uint16]
    bit_depth: int
    channel_names: tuple[str, ...]
    acquired_at: datetime | None = None
    pixel_size_um: float | None = None
    objective: str = ""
    simulated: bool = False
    selected: bool = False
    composed: bool = False
    lossy: bool = False


def read_acquisition(
    path: str | Path, *, slices: Sequence[int | str] = (), bit_depth: int | None = None
) -> Acquisition:
    """Read one ``.oir``, TIFF, OME-TIFF, PNG or JPEG file, with the other files of its set.

    Parameters
    ----------
    path : path
        The file.
    slices : sequence of int or str
        Which slices to use and in which order; empty takes all, in acquisition order. An
        integer counts slices from 0 in acquisition order. A text is a channel name or label
        (``DIC``: every plane of that channel), a position on an axis (``Z=1``: that plane of
        every channel), or such an integer. Two words say where slices come from: ``T``, that
        the frames of a stack are slices (Fiji saves some stacks so); ``files``, that each
        channel lies in a file of its own (``f_C0.tif``, ``f_C1.tif``), which are joined.
    bit_depth : int, optional
        Significant bits of a pixel, 9 to 16, for 16-bit files whose metadata do not say (many
        cameras store 12 bits in 16); overrides the file.

    Returns
    -------
    Acquisition

    Raises
    ------
    AcquisitionError
        If the file is missing, damaged, not a supported image, without a part of its set, a
        time lapse, tiled, or from a colour camera; if it holds several channels times several
        planes and `slices` does not say which to use; or if pixels exceed the bit depth.
    ValueError
        If a parameter is not as described.
    """
    _check_request(path, slices, bit_depth)
    path = Path(path)
    with file_named(path):
        recording = _joined(path) if FILES in slices else read_recording(path)
        words = () if {FRAMES, FILES} & {*recording.channel_names} else (FRAMES, FILES)
        chosen = [wanted for wanted in slices if wanted not in words]
        planes, names = _planes(recording, chosen, frames=FRAMES in slices)
        depth = _bit_depth(planes, recording.bit_depth, bit_depth)
    return Acquisition(
        slices=planes,
        bit_depth=depth,
        channel_names=names,
        acquired_at=recording.acquired_at,
        pixel_size_um=recording.pixel_size_um,
        objective=recording.objective,
        simulated=recording.simulated,
        selected=bool(chosen),
        composed=recording.axes == "SYX" and not chosen,
        lossy=recording.lossy,
    )


def read_picture(path: str | Path, settings: ImageSettings | None = None) -> NDArray[np.uint8]:
    """Read a ready picture, such as a cell that somebody cut out, by the rules of acquisitions.

    Parameters
    ----------
    path : path
        Anything that `read_acquisition` reads; a single gray plane fills R, G and B alike.
    settings : ImageSettings, optional
        As for `prepare_images`; the size is kept.

    Returns
    -------
    ndarray of uint8, shape (Y, X, 3)

    Raises
    ------
    AcquisitionError
        As `read_acquisition` and `compose_rgb`, and if 16-bit pixels use a small part of their
        range and nothing says how many bits count: one picture cannot tell dark from 12 bits.
    """
    how = settings or ImageSettings()
    one = read_acquisition(path, slices=how.slices, bit_depth=how.bit_depth)
    with file_named(Path(path)):
        brightest = int(one.slices.max())
        if how.bit_depth is None and how.to_8_bit in _BY_DEPTH and is_suspect(one, brightest):
            raise AcquisitionError(
                f"Its pixels reach {brightest} of {(1 << one.bit_depth) - 1}, and nothing says how "
                "many of its bits count. Say so with the parameter `bit_depth` (often 12)."
            )
        if len(one.slices) == 1 and not one.selected:
            one = replace(one, slices=np.repeat(one.slices, 3, axis=0))
        return compose_rgb(one, to_8_bit=how.to_8_bit, limits=how.limits)


def _check_request(path: str | Path, slices: Sequence[int | str], bit_depth: int | None) -> None:
    """Refuse parameters of the wrong kind, so that no library stumbles over them."""
    if not isinstance(path, str | Path):
        raise ValueError(f"path is {path!r}, but the path of one file was expected.")
    if not isinstance(slices, list | tuple) or not all(isinstance(s, int | str) for s in slices):
        raise ValueError(
            f"slices is {slices!r}, but a list of numbers or names was expected, such as ['DIC']."
        )
    if bit_depth is not None and bit_depth not in range(1, 17):
        raise ValueError(
            f"bit_depth is {bit_depth!r}, but a whole number from 9 to 16 was expected."
        )


def _joined(path: Path) -> Recording:
    """Read one file a channel, those whose names differ from `path` in the channel alone."""
    files = channel_files(path)
    if len(files) < 2:
        raise AcquisitionError(
            "It was to be joined with the files of its other channels (slices: files), but no name "
            "beside it differs in the channel alone, as f_C0.tif and f_C1.tif do."
        )
    recordings = {name: read_recording(path.with_name(file)) for name, file in files.items()}
    first = recordings[next(iter(files))]
    for name, one in recordings.items():
        if one.pixels.size != math.prod(one.pixels.shape[-2:]):
            raise AcquisitionError(
                f"{files[name]} holds {one.axes} of shape {one.pixels.shape}, but one plane a file "
                "was expected where each channel has its own file."
            )
        here = one.pixels.shape[-2:], one.pixels.dtype, one.bit_depth
        if here != (first.pixels.shape[-2:], first.pixels.dtype, first.bit_depth):
            raise AcquisitionError(
                f"{files[name]} differs in size or bit depth from the files of the other channels."
            )
    pixels = np.stack([one.pixels.reshape(one.pixels.shape[-2:]) for one in recordings.values()])
    lossy = any(one.lossy for one in recordings.values())
    joined = {"axes": "CYX", "channel_names": (*files,), "labels": (), "lossy": lossy}
    return replace(first, pixels=pixels, **joined)


def compose_rgb(
    acquisition: Acquisition,
    *,
    to_8_bit: str = "bit_depth",
    limits: Sequence[float] | None = None,
) -> NDArray[np.uint8]:
    """Put the slices of an acquisition into the channels of an RGB image.

    Two slices become R and G with B = 0; three become R, G and B; of four the last, almost
    black in the paper's data, is dropped (preprint, data preparation). Slices that the caller
    selected, one to three, fill R, G and B in their order; a channel without a slice is 0.

    Parameters
    ----------
    acquisition : Acquisition
        What `read_acquisition` returned.
    to_8_bit : {"bit_depth", "own_depth", "fixed", "image", "slice"}
        What becomes 0–255, where slices have more than 8 bits. The same for all images:
        ``bit_depth``, the camera's full range; ``fixed``, `limits`. Or of each image:
        ``own_depth``, its own full range, where cameras differ; or, so that intensities of
        two cannot be compared, ``image``, percentiles of its used slices together, and
        ``slice``, of each slice by itself.
    limits : (float, float), optional
        Raw intensities for ``fixed``; percentiles, by default 0.1 and 99.9, for ``image``
        and ``slice``.

    Returns
    -------
    ndarray of uint8, shape (Y, X, 3)

    Raises
    ------
    AcquisitionError
        If the number of slices is not 2, 3 or 4 and none were selected.
    ValueError
        If `to_8_bit` or `limits` is not one of the above.
    """
    if not isinstance(acquisition, Acquisition) or acquisition.slices.dtype.kind != "u":
        found = getattr(acquisition, "slices", None)
        raise ValueError(
            f"acquisition is {type(acquisition).__name__} of {getattr(found, 'dtype', None)}, "
            "but what read_acquisition returns was expected, with uint8 or uint16 slices."
        )
    slices = _used_slices(acquisition)
    ranges = _ranges(slices, acquisition.bit_depth, to_8_bit, limits)
    if slices.dtype != np.uint8 or acquisition.bit_depth < 8:
        slices = [_scaled(plane, *r) for plane, r in zip(slices, ranges, strict=True)]
    black = np.zeros(slices[0].shape, np.uint8)
    return cv2.merge([*slices, *[black] * (3 - len(slices))])


def is_suspect(acquisition: Acquisition, brightest: int) -> bool:
    """Tell whether pixels use so little of a full range that fewer bits may count."""
    full = acquisition.bit_depth == 8 * acquisition.slices.itemsize == 16
    return full and brightest < 1 << acquisition.bit_depth - 2


def fourth_slice_contrast(acquisition: Acquisition) -> float:
    """Return the contrast of a dropped fourth slice as a share of the best kept one's, or NaN."""
    if len(acquisition.slices) != 4 or acquisition.selected:
        return math.nan
    # Every fourth pixel of every fourth row will do, and a few hot ones must not count.
    low, high = np.percentile(acquisition.slices[:, ::4, ::4], [0.5, 99.5], axis=(1, 2))
    contrast = high - low
    return float(contrast[3] / max(contrast[:3].max(), 1.0))


def _used_slices(acquisition: Acquisition) -> NDArray:
    """Pick the slices that R, G and B take: those selected, or by the paper's rule."""
    count = len(acquisition.slices)
    if acquisition.selected and count > 3:
        raise AcquisitionError(
            f"{count} slices were selected ({', '.join(acquisition.channel_names)}), but an RGB "
            "image takes one to three. Name fewer in the parameter `slices`."
        )
    if not acquisition.selected and count not in (2, 3, 4):
        raise AcquisitionError(
            f"It holds {count} slice{'s' * (count > 1)} "
            f"({', '.join(acquisition.channel_names[:12])}), but 2, 3 or 4 were expected. "
            "Say which to use with the parameter `slices`."
        )
    return acquisition.slices[:3]


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
    if not slices:
        long_axes = [f"{n} along {axis}" for axis, n in held.items() if n > 1]
        if len(long_axes) > 1:
            raise AcquisitionError(
                f"It is ambiguous: it holds {' times '.join(long_axes)} = {len(names)} slices "
                f"({listing}{'; …' * (len(names) > 24)}). Say which to use with the parameter "
                "`slices`, by number, channel name or axis (such as Z=1)."
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
                f"It has no slice {wanted!r}, asked for by the parameter `slices`. It holds "
                f"{listing}."
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
            f"Its pixels reach {brightest}, but its bit depth is said to be {depth} "
            f"(at most {(1 << min(depth, 16)) - 1}). The file is damaged, or the parameter "
            "`bit_depth` is too small."
        )
    return depth


def _ranges(
    slices: NDArray, bit_depth: int, to_8_bit: str, limits: Sequence[float] | None
) -> list[tuple[float, float]]:
    """Return for each slice the raw intensities that become 0 and 255."""
    if to_8_bit not in _TO_8_BIT:
        raise ValueError(
            f"to_8_bit is {to_8_bit!r}, but one of {', '.join(_TO_8_BIT)} was expected."
        )
    if to_8_bit in _BY_DEPTH:
        return [(0, (1 << bit_depth) - 1)] * len(slices)
    if to_8_bit == "fixed" and not limits:
        raise ValueError(
            "to_8_bit='fixed' needs limits: the raw intensities that become 0 and 255."
        )
    limits = limits or _PERCENTILES
    if isinstance(limits, str) or not all(isinstance(x, int | float) for x in limits):
        raise ValueError(f"limits are {limits!r}, but two numbers were expected.")
    limits = tuple(limits)
    percentiles = to_8_bit != "fixed"
    bounds = (0, *limits, 100) if percentiles else limits
    if len(limits) != 2 or not limits[0] < limits[1] or [*bounds] != sorted(bounds):
        raise ValueError(
            f"limits are {limits}, but two were expected, the first the smaller"
            f"{', both percentiles from 0 to 100' * percentiles}."
        )
    low, high = limits
    if to_8_bit == "fixed":
        return [(low, high)] * len(slices)
    if to_8_bit == "image":
        return [_percentiles(slices, low, high)] * len(slices)
    return [_percentiles(plane[None], low, high) for plane in slices]


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
