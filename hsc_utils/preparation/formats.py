"""File formats → pixels with named axes and metadata; nothing here knows of slices or RGB.

Damaged files are the rule at this door: each format is checked for what its library lets
pass (truncated planes padded with zeros, sizes that do not fit the file, missing planes).
"""

import logging
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from xml.etree import ElementTree

import imagecodecs
import numpy as np
import oirfile
import tifffile
from numpy.typing import NDArray

# A 2048 × 2048 acquisition of 4 slices takes 34 MB; a damaged header may claim petabytes.
MAX_BYTES = 2**30

_PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type


class AcquisitionError(ValueError):
    """A file that cannot be read or used; the message says why, and what to do."""


@contextmanager
def file_named(path: Path) -> Iterator[None]:
    """Put a file's name before what an AcquisitionError says of it."""
    try:
        yield
    except AcquisitionError as error:
        raise AcquisitionError(f"{path.name}: {error}") from error.__cause__


@dataclass(frozen=True)
class Recording:
    """What one file holds: pixels of shape given by `axes`, and what its metadata say."""

    pixels: NDArray
    # T (time), Z (focal plane), C (channel), L (wavelength), S (R, G, B of a ready colour image)
    # or another letter of tifffile's, then YX.
    axes: str
    channel_names: tuple[str, ...] = ()
    bit_depth: int | None = None
    acquired_at: datetime | None = None
    pixel_size_um: float | None = None
    objective: str = ""
    simulated: bool = False


def read_recording(path: Path) -> Recording:
    """Read a file by the format its first bytes show; AcquisitionError if that cannot be."""
    try:
        with path.open("rb") as stream:
            start = stream.read(16)
    except OSError as error:
        raise AcquisitionError(f"It cannot be opened ({error.strerror}).") from error
    if not start:
        raise AcquisitionError("It is empty (0 bytes). Copy it again.")
    read = next((reader for begins, reader in _FORMATS if start.startswith(begins)), None)
    if read is None:
        raise AcquisitionError(
            "It is neither OIR, TIFF nor PNG by its first bytes. Convert it, or copy it again if "
            "it should be one of these."
        )
    try:
        return _checked(read(path))
    except AcquisitionError:
        raise
    except Exception as error:  # damaged files raise nearly everything in the libraries
        raise AcquisitionError(
            f"It cannot be read and seems damaged or cut short ({type(error).__name__}: "
            f"{str(error)[:80]}). Copy it again."
        ) from error


def _checked(recording: Recording) -> Recording:
    """Refuse pixels that are no counts of 8 or 16 bits, and put Y and X last."""
    pixels, axes = recording.pixels, recording.axes
    if pixels.dtype not in (np.uint8, np.uint16) or not pixels.size:
        raise AcquisitionError(
            f"Its pixels are {pixels.dtype} of shape {pixels.shape}, but unsigned integers of 8 "
            "or 16 bits were expected."
        )
    pixels = np.moveaxis(pixels, (axes.index("Y"), axes.index("X")), (-2, -1))
    native = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("="))
    return replace(recording, pixels=native, axes="".join(a for a in axes if a not in "YX") + "YX")


def _read_oir(path: Path) -> Recording:
    with (
        _complaints_refused("oirfile", logging.WARNING),
        oirfile.OirFile(path, squeeze=False) as oir,
    ):
        if not oir.sizes:
            raise AcquisitionError("It holds no image.")
        if "S" in oir.sizes:
            raise AcquisitionError("It was taken with a colour camera; grayscale was expected.")
        if "Y" not in oir.sizes:
            raise AcquisitionError("It is a line scan, not an image.")
        # OIR stores pixels uncompressed, so a file cannot claim more than it weighs; and
        # oirfile fills what is missing with zeros and lets rows grow to what is there.
        weight = sum(Path(p).stat().st_size for p in [path, *oir.companion_files])
        frame = oir.xml_metadata[oirfile.METADATA.FRAMEPROPERTIES][0]
        planes = math.prod(n for axis, n in oir.sizes.items() if axis not in "YX")
        if (
            oir.nbytes > weight
            or oir.sizes["Y"] != int(_xml(frame).findtext(".//{*}height", "0"))
            or len(oir._pixel_map) != planes
        ):
            raise AcquisitionError(
                f"Its size is said to be {oir.sizes}, which the pixels in the file do not "
                "make up. It is damaged or cut short: copy it again."
            )
        names = tuple(map(str, oir.coords["C"]))
        listed = {channel.name for channel in oir.channels}
        if len(names) > 1 and not {*names} <= listed:
            raise AcquisitionError(
                "Its pixels belong to channels that its metadata do not list, so their order "
                "is unknown. It is damaged: copy it again."
            )
        # A damaged block takes its whole slice with it, but the bytes of the slice remain.
        if len(listed) > len(names) and weight - oir.nbytes >= oir.nbytes // planes:
            raise AcquisitionError(
                f"Its metadata list the channels {', '.join(sorted(listed))}, but only "
                f"{', '.join(names)} can be read. It is damaged: copy it again."
            )
        pixels = oir.asarray()
        metadata = "".join(text for texts in oir.xml_metadata.values() for text in texts)
        general = (oir.xml_metadata.get(oirfile.METADATA.LSMIMAGE) or [""])[0]
        return Recording(
            pixels=pixels,
            axes="".join(oir.dims),
            channel_names=names,
            bit_depth=oir.bitspersample or None,
            acquired_at=_acquisition_time(oir.datetime),
            pixel_size_um=oir.coord_scales.get("X"),
            objective=_xml(general).findtext(".//{*}objectiveLens//{*}name", "").strip(),
            simulated="SIMULATED" in metadata or "SIMULATED" in oir.producer,
        )


def _read_tiff(path: Path) -> Recording:
    with _complaints_refused("tifffile", logging.ERROR), tifffile.TiffFile(path) as tiff:
        if len(tiff.series) != 1:
            raise AcquisitionError(
                f"It holds {len(tiff.series)} separate images (tiles, positions or sizes), but "
                "one acquisition was expected."
            )
        series = tiff.series[0]
        page = series.keyframe
        _check_tiff(series, path.stat().st_size)
        # Only samples of a colour image are R, G and B; others are slices, wherever they lie.
        axes = series.axes
        if page.photometric != tifffile.PHOTOMETRIC.RGB:
            axes = axes.replace("S", "C")
        ome = _xml(tiff.ome_metadata)
        stated = _attributes(ome, "Pixels")
        unit = _UNITS_UM.get(stated.get("PhysicalSizeXUnit", "µm"))
        side = stated.get("PhysicalSizeX")
        channels = enumerate(ome.iterfind(".//{*}Channel"))
        moment = ome.findtext(".//{*}AcquisitionDate") or page.tags.valueof(306)
        texts = f"{tiff.ome_metadata}{page.description}{page.software}"
        recording = Recording(
            pixels=series.asarray(),
            axes=axes,
            channel_names=tuple(channel.get("Name") or f"C={k}" for k, channel in channels),
            bit_depth=int(stated.get("SignificantBits", 0)) or None,
            acquired_at=_acquisition_time(moment),
            pixel_size_um=float(side) * unit if side and unit else None,
            objective=_attributes(ome, "Objective").get("Model", ""),
            simulated="SIMULATED" in texts,
        )
    return _samples(recording)


def _check_tiff(series: tifffile.TiffPageSeries, weight: int) -> None:
    """Refuse colours that are no intensities, and more pixels than the file has bytes for."""
    if series.nbytes > MAX_BYTES:
        raise AcquisitionError(
            f"It claims {series.nbytes:,} bytes of pixels, more than one acquisition can hold "
            f"({MAX_BYTES:,}). It is damaged."
        )
    if series.keyframe.photometric in (tifffile.PHOTOMETRIC.PALETTE, 0):
        raise AcquisitionError("Its colours are inverted or indexed; save it as grayscale or RGB.")
    for page in filter(None, series.pages):
        ends = map(sum, zip(page.dataoffsets, page.databytecounts, strict=True))
        if 0 in page.databytecounts or max(ends, default=0) > weight:
            raise AcquisitionError("It is cut short: pixels lie past its end. Copy it again.")


def _read_png(path: Path) -> Recording:
    content = path.read_bytes()
    width, height = (int.from_bytes(content[at : at + 4]) for at in (16, 20))
    if width * height * 8 > MAX_BYTES:
        raise AcquisitionError(f"It claims {width} × {height} pixels, too many. It is damaged.")
    bits, colours, interlaced = content[24], content[25], content[28]
    row_bytes = -(-width * bits * _PNG_SAMPLES[colours] // 8) + 1
    # The library would crop or shear what does not fit.
    if not interlaced and not _png_holds(content, row_bytes * height):
        raise AcquisitionError(
            f"Its size is said to be {width} × {height}, which its pixels do not make up. It is "
            "damaged or cut short: copy it again."
        )
    pixels = imagecodecs.png_decode(content)
    simulated = b"SIMULATED" in content[: content.find(b"IDAT")]
    return _samples(Recording(pixels, "YXS"[: pixels.ndim], simulated=simulated))


def _png_holds(content: bytes, expected: int) -> bool:
    """Tell whether the chunks of pixels unpack to as many bytes, without unpacking more."""
    stream, at, found = zlib.decompressobj(), content.find(b"IDAT") - 4, 0
    while content[at + 4 : at + 8] == b"IDAT":
        length = int.from_bytes(content[at : at + 4])
        found += len(stream.decompress(content[at + 8 : at + 8 + length], expected - found + 1))
        at += length + 12
    return found == expected


def _samples(recording: Recording) -> Recording:
    """Tell ready colour images (samples last) from slices stored as planar samples."""
    pixels, axes = recording.pixels, recording.axes
    if not axes.endswith("S") or pixels.shape[-1] == 1:
        return replace(recording, axes=axes.replace("S", "C"))
    if pixels.shape[-1] == 4 and (pixels[..., 3] == np.iinfo(pixels.dtype).max).all():
        pixels = pixels[..., :3]
    if pixels.shape[-1] != 3 or pixels.ndim != 3:
        raise AcquisitionError(
            f"It is a colour image of shape {pixels.shape} with transparency or several planes, "
            "but plain RGB was expected."
        )
    return replace(recording, pixels=pixels, channel_names=("red", "green", "blue"))


@contextmanager
def _complaints_refused(library: str, level: int) -> Iterator[None]:
    """Refuse a file of which a library only logs, at `level` and above, that it is damaged."""
    complaints: list[str] = []
    logger, handler = logging.getLogger(library), logging.Handler(level)
    handler.emit = lambda record: complaints.append(record.getMessage())
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
    if complaints:
        raise AcquisitionError(f"It is damaged or cut short ({complaints[0]}). Copy it again.")


_FORMATS = (
    (b"OLYMPUSRAWFORMAT", _read_oir),
    ((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), _read_tiff),
    (b"\x89PNG\r\n\x1a\n", _read_png),
)

_UNITS_UM = {"µm": 1.0, "um": 1.0, "micron": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4}


def _xml(document: str | None) -> ElementTree.Element:
    """Parse a document; an absent one has no elements."""
    return ElementTree.fromstring(document.encode()) if document else ElementTree.Element("none")


def _attributes(tree: ElementTree.Element, name: str) -> dict[str, str]:
    """Return the attributes of the first element of a local name, if there is one."""
    found = tree.find(f".//{{*}}{name}")
    return {} if found is None else found.attrib


def _acquisition_time(text: str | None) -> datetime | None:
    """Read ISO 8601 or TIFF's ``YYYY:MM:DD HH:MM:SS``; nothing else counts as a time."""
    for layout in (datetime.fromisoformat, lambda t: datetime.strptime(t, "%Y:%m:%d %H:%M:%S")):
        try:
            return layout((text or "").strip())
        except ValueError:
            continue
    return None
