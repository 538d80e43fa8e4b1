"""File formats → pixels with named axes and metadata; nothing here knows of slices or RGB.

Damaged files are the rule at this door: each format is checked for what its library lets pass
(planes padded with zeros, sizes that do not fit, missing files, samples that are no intensities).
"""

import itertools
import logging
import math
import re
import struct
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
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


def _damaged(why: str) -> AcquisitionError:
    return AcquisitionError(f"It cannot be read: damaged or cut short ({why}). Copy it again.")


@contextmanager
def file_named(path: Path) -> Iterator[None]:
    """Put a file's name before what an AcquisitionError says of it."""
    try:
        yield
    except AcquisitionError as error:
        raise AcquisitionError(f"{path.name}: {error}") from error.__cause__


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the metadata of a file say."""

    acquired_at: datetime | None = None  # by the microscope's clock
    pixel_size_um: float | None = None
    objective: str = ""
    simulated: bool = False
    lossy: bool = False  # compressed as JPEG, which loses detail


@dataclass(frozen=True)
class Recording(Facts):
    """What one file holds: pixels of shape given by `axes`, and what its metadata say."""

    pixels: NDArray
    # T (time), Z (focal plane), C (channel), L (wavelength), S (R, G, B of a ready colour image)
    # or another letter of tifffile's, then YX.
    axes: str
    channel_names: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()  # of each plane, where the file has them
    bit_depth: int | None = None  # as the file states it


def read_recording(path: Path) -> Recording:
    """Read a file by the format its first bytes show, and put Y and X last."""
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
            "It is neither OIR, TIFF nor PNG (nor JPEG) by its first bytes. Convert it, or copy it "
            "again."
        )
    try:
        recording = read(path)
        pixels, axes = recording.pixels, recording.axes
        if pixels.dtype not in (np.uint8, np.uint16) or not pixels.size:
            raise AcquisitionError(
                f"Its pixels are {pixels.dtype} of shape {pixels.shape}; unsigned integers of 8 or "
                "16 bits were expected."
            )
        pixels = np.moveaxis(pixels, (axes.index("Y"), axes.index("X")), (-2, -1))
        native = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("="))
        others = "".join(axis for axis in axes if axis not in "YX")
        return replace(recording, pixels=native, axes=f"{others}YX")
    except AcquisitionError:
        raise
    except Exception as error:  # damaged files raise nearly everything in the libraries
        raise _damaged(f"{type(error).__name__}: {str(error)[:80]}") from error


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
        general = _xml((oir.xml_metadata.get(oirfile.METADATA.LSMIMAGE) or [""])[0])
        there, parts = len(oir._pixel_map), len(oir.companion_files)
        _check_count(there, _announced_by_oir(oir, general), f"{path.stem}_{parts + 1:05d}")
        # OIR stores pixels uncompressed, so a file cannot claim more than it weighs; and
        # oirfile fills what is missing with zeros and lets rows grow to what is there.
        weight = sum(Path(p).stat().st_size for p in [path, *oir.companion_files])
        frame = _xml(oir.xml_metadata[oirfile.METADATA.FRAMEPROPERTIES][0])
        rows = int(frame.findtext(".//{*}height", "0"))
        planes = math.prod(n for axis, n in oir.sizes.items() if axis not in "YX")
        if oir.nbytes > weight or oir.sizes["Y"] != rows or there != planes:
            raise _damaged(f"its pixels do not make up {oir.sizes}")
        names = tuple(map(str, oir.coords["C"]))
        if len(names) > 1 and not {*names} <= {channel.name for channel in oir.channels}:
            raise _damaged("its metadata do not list the channels of its pixels")
        metadata = "".join(text for texts in oir.xml_metadata.values() for text in texts)
        return Recording(
            pixels=oir.asarray(),
            axes="".join(oir.dims),
            channel_names=names,
            bit_depth=oir.bitspersample or None,
            acquired_at=_acquisition_time(oir.datetime),
            pixel_size_um=oir.coord_scales.get("X"),
            objective=general.findtext(".//{*}objectiveLens//{*}name", "").strip(),
            simulated="SIMULATED" in metadata or "SIMULATED" in oir.producer,
        )


def _announced_by_oir(oir: oirfile.OirFile, general: ElementTree.Element) -> int:
    """Count the planes that the metadata announce: enabled channels times lengths of axes."""
    listed = general.iterfind(".//{*}imageInfo//{*}channel")
    channels = {c.get("id") for c in listed if c.get("enable", "true") == "true"}
    lengths = (
        max(axis.get("maxSize", 1), oir.sizes.get(_OIR_AXES.get(name, ""), 1))
        for name, axis in oir._axis_info.items()
    )
    return max(len(channels), oir.sizes["C"]) * math.prod(lengths)


def _read_tiff(path: Path) -> Recording:
    with _complaints_refused("tifffile", logging.ERROR), tifffile.TiffFile(path) as tiff:
        ome, fiji = _xml(tiff.ome_metadata), tiff.imagej_metadata or {}
        kind = tiff.pages.first.photometric
        if kind not in (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB):
            raise AcquisitionError(
                f"Its colours are inverted, indexed or mixed ({getattr(kind, 'name', kind)}), so "
                "no intensities. Save it as grayscale or RGB."
            )
        if (away := ome.find("{*}BinaryOnly")) is not None:
            raise AcquisitionError(
                f"It is one file of a set that {away.get('MetadataFile')} describes, which cannot "
                "be read. Save the set as one OME-TIFF."
            )
        missing = ", ".join(name for name in _ome_files(ome) if not (path.parent / name).is_file())
        _check_count(*_pages_announced(tiff, fiji), missing)
        if len(tiff.series) != 1:
            count = len(tiff.series)
            raise AcquisitionError(f"It holds {count} separate images (tiles, positions or sizes).")
        series = tiff.series[0]
        _check_count(sum(page is not None for page in series.pages), len(series.pages), missing)
        _check_weight(series)
        pixels, page = series.asarray(), series.keyframe
        if pixels.shape != series.shape or (tiff.is_ome and series.kind == "generic"):
            raise _damaged(f"its description does not say the shape {pixels.shape} of its pixels")
        colour = page.photometric == tifffile.PHOTOMETRIC.RGB
        extra = range(-len(page.extrasamples), 0)
        alpha = [k for k in extra if page.extrasamples[k] or (colour and series.axes[-1] == "S")]
        stated = getattr(ome.find(".//{*}Pixels"), "attrib", {})
        channels = enumerate(ome.iterfind(".//{*}Channel"))
        moment = ome.findtext(".//{*}AcquisitionDate") or page.tags.valueof(306)
        labels = fiji.get("Labels", ())
        recording = Recording(
            pixels=pixels,
            axes=series.axes,
            channel_names=tuple(channel.get("Name") or f"C={k}" for k, channel in channels),
            labels=tuple(label.split("\n")[0].strip() for label in np.atleast_1d(labels)),
            bit_depth=_tiff_bits(page, stated, fiji, pixels),
            acquired_at=_acquisition_time(moment),
            pixel_size_um=_pixel_side(page, stated, fiji),
            objective=getattr(ome.find(".//{*}Objective"), "attrib", {}).get("Model", ""),
            simulated="SIMULATED" in f"{tiff.ome_metadata}{page.description}{page.software}",
            lossy=page.compression in _JPEG_IN_TIFF,
        )
    return _samples(recording, alpha, colour)


def _pages_announced(tiff: tifffile.TiffFile, fiji: Mapping) -> tuple[int, int]:
    """Count the pages that are there, and those that ImageJ or tifffile announce in the first."""
    page, there = tiff.pages.first, len(tiff.pages)
    # Some programs count the samples of a colour image as channels.
    axes = ("channels", "slices", "frames") if page.samplesperpixel == 1 else ("slices", "frames")
    announced = math.prod(max(fiji.get(axis, 1), 1) for axis in axes)
    announced = max(announced, fiji.get("images", 1) if "channels" in axes else 1)
    if len(shaped := tiff.shaped_metadata or ()) == 1:
        announced = max(announced, math.prod(shaped[0]["shape"]) // page.size)
    if there == 1 and page.is_final:  # ImageJ keeps more than 4 GB behind a single page
        there = max(1, (tiff.filehandle.size - page.dataoffsets[0]) // page.nbytes)
    return there, announced


def _check_count(there: int, announced: int, missing: str) -> None:
    """Refuse a file that holds fewer planes than it announces, and name the missing files."""
    if there < announced:
        raise AcquisitionError(
            f"{announced} planes are announced, {there} are there. Copy "
            f"{missing or 'all files of its set'} beside it, or, if it has none, copy it again: it "
            "is damaged or cut short."
        )


def _ome_files(ome: ElementTree.Element) -> list[str]:
    """Name the other files over which an OME-TIFF spreads its planes."""
    uuids = [uuid for uuid in ome.iterfind(".//{*}TiffData/{*}UUID") if uuid.get("FileName")]
    return sorted({uuid.get("FileName") for uuid in uuids if uuid.text != ome.get("UUID")})


def other_files(path: Path) -> list[str]:
    """Name the files beside this one that are read with it, and those that it lacks."""
    parts = (f"{path.stem}_{k:05d}" for k in itertools.count(1))
    with suppress(Exception):  # reading it will say what is wrong
        with path.open("rb") as stream:
            start = stream.read(16)
        if start == _OIR:
            there = [*itertools.takewhile(lambda part: (path.parent / part).exists(), parts)]
            return [*there, f"{path.stem}_{len(there) + 1:05d}"]
        if start.startswith(_TIFF):
            with tifffile.TiffFile(path) as tiff:
                return [name for name in _ome_files(_xml(tiff.ome_metadata)) if name != path.name]
    return []


def _check_weight(series: tifffile.TiffPageSeries) -> None:
    if series.nbytes > MAX_BYTES:
        raise _damaged(f"it claims {series.nbytes:,} bytes of pixels, more than {MAX_BYTES:,}")
    for page in series.pages:
        ends = map(sum, zip(page.dataoffsets, page.databytecounts, strict=True))
        if 0 in page.databytecounts or max(ends, default=0) > page.parent.filehandle.size:
            raise _damaged("pixels lie past its end")


def _tiff_bits(page: tifffile.TiffPage, ome: Mapping, fiji: Mapping, pixels: NDArray) -> int | None:
    """Return the significant bits that a TIFF states, in whichever of the usual places."""
    if page.bitspersample < 8 * pixels.itemsize:
        return page.bitspersample
    if bits := int(ome.get("SignificantBits", 0)):
        return bits
    if pixels.dtype.kind != "u" or pixels.itemsize != 2:
        return None
    micro_manager = page.tags.valueof(51123) or {}
    if isinstance(micro_manager, Mapping) and (bits := micro_manager.get("BitDepth")):
        return int(bits)
    # Fiji stores what range it showed last; only a range of whole bits tells more than that.
    shown = [fiji.get("min", 0), fiji.get("max", 0), *fiji.get("Ranges", ())]
    largest = [int(high) for low, high in itertools.batched(shown, 2) if low == 0]
    largest = [high for high in largest if high & (high + 1) == 0]
    # The largest value may be that of the camera or that of the image: cameras have even bits.
    said = int(np.max(page.tags.valueof(281) or 0))
    largest += [said if said & (said + 1) == 0 else 4 ** math.ceil(said.bit_length() / 2) - 1]
    bits = max(largest).bit_length()
    return bits if bits <= 16 and int(pixels.max(initial=0)) >> bits == 0 else None


def _pixel_side(page: tifffile.TiffPage, ome: Mapping, fiji: Mapping) -> float | None:
    """Return the side of a pixel in µm, as OME or Fiji state it."""
    side, unit = ome.get("PhysicalSizeX"), ome.get("PhysicalSizeXUnit", "µm")
    if not side and fiji and "XResolution" in page.tags:
        across, length = page.tags["XResolution"].value
        side, unit = across and length / across, str(fiji.get("unit", "pixel"))
    factor = _UNITS_UM.get(unit.replace("\\u00B5", "µ").replace("μ", "µ"))
    return float(side) * factor if side and factor else None


def _read_png(path: Path) -> Recording:
    content = path.read_bytes()
    width, height, bits, colours, interlaced = struct.unpack(">IIBB2xB", content[16:29])
    if width * height * 8 > MAX_BYTES:
        raise _damaged(f"it claims {width} × {height} pixels, too many")
    row_bytes = -(-width * bits * _PNG_SAMPLES[colours] // 8) + 1
    # The library would crop or shear what does not fit.
    if not interlaced and not _png_holds(content, row_bytes * height):
        raise _damaged(f"its pixels do not make up {width} × {height}")
    ahead = content[: content.find(b"IDAT")]
    if b"acTL" in ahead:
        raise AcquisitionError("It is an animation of several frames, not one image.")
    pixels = imagecodecs.png_decode(content)
    alpha = [-1] if colours >= 4 or b"tRNS" in ahead else []
    recording = Recording(
        pixels,
        "YXS"[: pixels.ndim],
        bit_depth=_png_bits(ahead, pixels),
        simulated=b"SIMULATED" in ahead,
    )
    return _samples(recording, alpha, colour=True)


def _png_bits(ahead: bytes, pixels: NDArray) -> int | None:
    """Return the significant bits that the chunk sBIT states, unless pixels are scaled up."""
    # The standard wants them scaled up, but many programs only state how many bits there were.
    at = ahead.find(b"sBIT")
    bits = max(ahead[at + 4 : at + 4 + int.from_bytes(ahead[at - 4 : at])]) if at > 0 else 0
    unused = 8 * pixels.itemsize - bits
    if not bits or unused <= 0 or pixels.max() >> bits:
        return None
    return bits if (pixels & ((1 << unused) - 1)).any() else None


def _read_jpeg(path: Path) -> Recording:
    content = path.read_bytes()
    # The library fills what is missing with gray, without a word.
    if not content.rstrip(b"\0\r\n").endswith(b"\xff\xd9"):
        raise _damaged("its end is missing")
    pixels = imagecodecs.jpeg8_decode(content)
    if pixels.shape[2:] == (4,):
        raise AcquisitionError("It holds printing colours (CMYK), not RGB. Save it as RGB.")
    return _samples(Recording(pixels, "YXS"[: pixels.ndim], lossy=True), [], colour=True)


def _png_holds(content: bytes, expected: int) -> bool:
    """Tell whether the chunks of pixels unpack to as many bytes, without unpacking more."""
    stream, at, found = zlib.decompressobj(), content.find(b"IDAT") - 4, 0
    while content[at + 4 : at + 8] == b"IDAT":
        length = int.from_bytes(content[at : at + 4])
        found += len(stream.decompress(content[at + 8 : at + 8 + length], expected - found + 1))
        at += length + 12
    return found == expected


def _samples(recording: Recording, alpha: Sequence[int], colour: bool) -> Recording:
    """Drop transparency where there is none, and tell R, G and B (samples last) from slices."""
    pixels, axes = recording.pixels, recording.axes
    opaque = np.iinfo(pixels.dtype).max if pixels.dtype.kind == "u" else 1
    for sample in alpha:
        if (np.take(pixels, sample, axes.index("S")) != opaque).any():
            raise AcquisitionError("It has transparency, which is no intensity. Save it without.")
    if alpha:
        pixels = np.delete(pixels, alpha, axes.index("S"))
    if not colour or not axes.endswith("S") or pixels.shape[-1] == 1:
        # Samples of no colour are slices, wherever they lie.
        axes = axes.replace("S", "L" if "C" in axes else "C")
        return replace(recording, pixels=pixels, axes=axes)
    if pixels.shape[-1] != 3 or pixels.ndim != 3:
        raise AcquisitionError(
            f"It is a colour image of shape {pixels.shape}, but plain RGB was expected."
        )
    return replace(recording, pixels=pixels, channel_names=("red", "green", "blue"))


@contextmanager
def _complaints_refused(library: str, level: int) -> Iterator[None]:
    """Refuse a file of which a library only logs, at `level` and above, that it is damaged."""
    complaints: list[str] = []
    logger, mine = logging.getLogger(library), threading.get_ident()  # others may read, too

    def passes(record: logging.LogRecord) -> bool:
        if record.thread == mine and record.levelno >= level:
            complaints.append(record.getMessage())
        return record.thread != mine

    logger.addFilter(passes)
    try:
        yield
    except AcquisitionError:
        raise
    except Exception:
        if not complaints:
            raise
    finally:
        logger.removeFilter(passes)
    if complaints:
        complaint = re.sub(r"[^\s']*/", "", complaints[0])  # without the folders of this machine
        raise _damaged(complaint)


_OIR = b"OLYMPUSRAWFORMAT"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_FORMATS = (
    (_OIR, _read_oir),
    (_TIFF, _read_tiff),
    (b"\x89PNG\r\n\x1a\n", _read_png),
    (b"\xff\xd8\xff", _read_jpeg),
)
_OIR_AXES = {"ZSTACK": "Z", "TIMELAPSE": "T", "LAMBDA": "L"}
_JPEG_IN_TIFF = (tifffile.COMPRESSION.OJPEG, tifffile.COMPRESSION.JPEG)

_UNITS_UM = {"µm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0}
_UNITS_UM |= {"nm": 1e-3, "mm": 1e3, "cm": 1e4, "inch": 25400.0}


def _xml(document: str | None) -> ElementTree.Element:
    """Parse a document; an absent one has no elements."""
    return ElementTree.fromstring(document.encode()) if document else ElementTree.Element("none")


def _acquisition_time(text: str | None) -> datetime | None:
    """Read ISO 8601 or TIFF's ``YYYY:MM:DD HH:MM:SS``; nothing else counts as a time."""
    for layout in (datetime.fromisoformat, lambda t: datetime.strptime(t, "%Y:%m:%d %H:%M:%S")):
        try:
            return layout((text or "").strip())
        except ValueError:
            continue
    return None
