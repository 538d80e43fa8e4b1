"""Write Olympus OIR files: a header, a chain of typed blocks, and an index of the blocks.

No specification of OIR is public. What is written here is what readers of the format
agree on, in little-endian order: a 96-byte header; then blocks of ``length, kind,
content``; for every frame (one time and focal plane, all channels) an XML document with
its geometry, then its pixels, cut into chunks that are each named by a tag; last, the
XML documents about the acquisition and the list of all block offsets. Nothing is
compressed.
"""

import itertools
import struct
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5
from xml.sax.saxutils import escape

import numpy as np

from hsc_utils.files import atomic_path

_DOCUMENTS, _FRAME, _TAG, _PIXELS, _SEPARATOR = 0, 1, 3, 4, 5
_FILE_INFO, _IMAGE_PROPERTIES, _FRAME_PROPERTIES = 1, 2, 9
_HEADER_SIZE = 96
_CHUNK_BYTES = 1 << 16
_NONE = 0xFFFFFFFFFFFFFFFF
_AXIS_NAMES = {"Z": "ZSTACK", "T": "TIMELAPSE"}
_PRODUCER = "hscutils"  # the header's field holds 8 characters; FluoView writes its own name there
_MODELS = (
    "base commonframe commonimage commonparam commonphase fileinfo lsmframe lsmimage opticalelement"
)
_NAMESPACES = " ".join(
    f'xmlns:{name}="http://www.olympus.co.jp/hpf/model/{name}"' for name in _MODELS.split()
)


def write_oir(
    path: str | Path,
    pixels: np.ndarray,
    *,
    axes: str = "CYX",
    channel_names: Sequence[str],
    acquired_at: datetime,
    pixel_size_um: float,
    bit_depth: int = 12,
    comment: str = "",
    objective: tuple[str, float, float] | None = None,
    z_step_um: float = 1.0,
    interval_s: float = 1.0,
) -> None:
    """Write one acquisition as an OIR file, atomically.

    Parameters
    ----------
    path : path
        File to write; its folder is made where it is missing.
    pixels : uint8 or uint16 array
        Samples in the order of `axes`, each below ``2**bit_depth``.
    axes : str
        One letter an axis: ``YX`` last, before it any of ``T`` (time), ``Z`` (focal
        plane) and ``C`` (channel), each at most once, in any order.
    channel_names : sequence of str
        One display name a channel, in order.
    acquired_at : datetime
        Start of the acquisition, with its time zone.
    pixel_size_um : float
        Side of a pixel in micrometres.
    bit_depth : int
        Significant bits a sample, 1 to 8 for uint8 and 1 to 16 for uint16.
    comment : str
        Free text about the acquisition.
    objective : (str, float, float), optional
        Name, magnification and numerical aperture.
    z_step_um, interval_s : float
        Distance between focal planes in micrometres, and time between frames in seconds.

    Raises
    ------
    ValueError
        If the samples, axes, names or time do not fit together; nothing is written then.
    """
    planes = _as_tzcyx(np.asarray(pixels), axes)
    _check(planes, channel_names, acquired_at, bit_depth)
    blocks: list[bytes] = []
    channel_ids = [
        str(uuid5(NAMESPACE_URL, f"hsc_utils/channel/{k}/{name}"))
        for k, name in enumerate(channel_names)
    ]
    for t, z in np.ndindex(planes.shape[:2]):
        frame = _frame_name(t, z, axes)
        positions = {"T": 1000 * interval_s * t, "Z": z_step_um * z}  # milliseconds, micrometres
        document = _frame_document(
            frame,
            planes[t, z],
            bit_depth,
            acquired_at + timedelta(seconds=interval_s * t),
            {_AXIS_NAMES[axis]: positions[axis] for axis in "TZ" if axis in axes},
        )
        blocks.append(_block(_FRAME, _described(_FRAME_PROPERTIES, document)))
        for channel_id, plane in zip(channel_ids, planes[t, z], strict=True):
            blocks += _plane_blocks(f"{frame}_{channel_id}", plane)
        blocks.append(_block(_SEPARATOR, b""))
    steps = {"Z": (z_step_um, planes.shape[1]), "T": (interval_s, planes.shape[0])}
    properties = _image_document(
        planes,
        dict(zip(channel_ids, channel_names, strict=True)),
        acquired_at,
        pixel_size_um,
        bit_depth,
        comment,
        objective,
        {_AXIS_NAMES[axis]: steps[axis] for axis in "ZT" if axis in axes},
    )
    documents = _described(_FILE_INFO, _file_document(comment))
    blocks.append(_block(_DOCUMENTS, documents + _described(_IMAGE_PROPERTIES, properties)))
    with atomic_path(path) as temporary:
        temporary.write_bytes(_assemble(blocks))


def _as_tzcyx(pixels: np.ndarray, axes: str) -> np.ndarray:
    """Bring the samples into the order time, focal plane, channel, row, column."""
    if axes[-2:] != "YX" or len(set(axes)) != len(axes) or not set(axes) <= set("TZCYX"):
        raise ValueError(
            f"axes={axes!r} cannot be written: expected YX last and before it any of T, Z and C, "
            "each at most once, such as 'CYX'."
        )
    if pixels.ndim != len(axes) or 0 in pixels.shape:
        raise ValueError(
            f"pixels has shape {pixels.shape}, but axes={axes!r} needs {len(axes)} axes, "
            "none empty."
        )
    order = [axis for axis in "TZCYX" if axis in axes]
    missing = tuple(k for k, axis in enumerate("TZC") if axis not in axes)
    return np.expand_dims(pixels.transpose([axes.index(axis) for axis in order]), missing)


def _check(
    planes: np.ndarray, channel_names: Sequence[str], acquired_at: datetime, bit_depth: int
) -> None:
    """Refuse samples, names and times that an OIR file cannot hold."""
    if planes.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"pixels has dtype {planes.dtype}: OIR holds uint8 or uint16.")
    if not 1 <= bit_depth <= 8 * planes.itemsize:
        raise ValueError(
            f"bit_depth={bit_depth} does not fit {planes.dtype}: "
            f"expected 1 to {8 * planes.itemsize}."
        )
    if planes.max() >= 2**bit_depth:
        raise ValueError(
            f"pixels reaches {planes.max()}, but bit_depth={bit_depth} allows at most "
            f"{2**bit_depth - 1}: clip the samples or raise bit_depth."
        )
    if len(channel_names) != planes.shape[2]:
        raise ValueError(
            f"channel_names has {len(channel_names)} names for {planes.shape[2]} channels."
        )
    if acquired_at.tzinfo is None:
        raise ValueError("acquired_at has no time zone: give one, such as datetime.UTC.")


def _frame_name(t: int, z: int, axes: str) -> str:
    """Name a frame by its 1-based indices; a single frame still counts as time 1."""
    indices = {"T": f"t{t + 1:03d}", "Z": f"z{z + 1:03d}"}
    return ("".join(indices[axis] for axis in "TZ" if axis in axes) or "t001") + "_0_1"


def _plane_blocks(name: str, plane: np.ndarray) -> Iterator[bytes]:
    """Cut a plane into chunks of whole rows: a tag block and a pixel block each."""
    samples = np.ascontiguousarray(plane, dtype=plane.dtype.newbyteorder("<")).tobytes()
    row_bytes = plane.shape[1] * plane.itemsize
    step = row_bytes * max(1, _CHUNK_BYTES // row_bytes)
    for number, start in enumerate(range(0, len(samples), step)):
        chunk = samples[start : start + step]
        tag = f"{name}_{number}".encode("ascii")
        yield _block(_TAG, struct.pack("<3I", start, len(chunk), len(tag)) + tag)
        yield _block(_PIXELS, chunk)


def _block(kind: int, content: bytes) -> bytes:
    return struct.pack("<2I", len(content), kind) + content


def _described(kind: int, document: str) -> bytes:
    """Precede an XML document by what kind it is (36 bytes) and its length.

    oirfile ends a document at the last ``>`` before the next one, so that byte (0x3E) must
    not occur in the length that precedes the next one: spaces make the document longer.
    """
    text = document.encode("ascii", "xmlcharrefreplace")
    while b">" in struct.pack("<I", len(text)):
        text += b" "
    return struct.pack("<9I", kind, 1, 0, 0, 1, 1, 1, 1, 1) + struct.pack("<I", len(text)) + text


def _assemble(blocks: Sequence[bytes]) -> bytes:
    """Join header, blocks and the index of their offsets."""
    offsets = list(itertools.accumulate(map(len, blocks), initial=_HEADER_SIZE))
    index_offset = offsets.pop()
    index = struct.pack(f"<I{len(offsets)}Q", 0xFFFFFFFF, *offsets)
    header = struct.pack(
        "<16s4I2Q4IQ8s2IQ",
        b"OLYMPUSRAWFORMAT",
        12,
        0,
        1,
        2,
        index_offset + len(index),
        index_offset,
        len(blocks),
        0,
        1,
        0,
        _NONE,
        _PRODUCER.encode("ascii"),
        3,
        2,
        _NONE,
    )  # the first _NONE: no thumbnail
    return b"".join([header, *blocks, index])


def _timestamp(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")


def _geometry(planes: np.ndarray, bit_depth: int) -> str:
    # "GlayScale" is how FluoView spells it, and what readers look for.
    height, width = planes.shape[-2:]
    return (
        f"<base:colorType>GlayScale</base:colorType><base:width>{width}</base:width>"
        f"<base:height>{height}</base:height><base:depth>{planes.itemsize}</base:depth>"
        f"<base:bitCounts>{bit_depth}</base:bitCounts>"
    )


def _file_document(comment: str) -> str:
    """Return the document about the file: version of the format, and a comment."""
    return f"""<?xml version="1.0" encoding="ASCII"?>
<fileinfo:fileInfomation {_NAMESPACES}>
  <base:version>2.1.2.3</base:version>
  <base:comment>{escape(comment)}</base:comment>
</fileinfo:fileInfomation>
"""


def _frame_document(
    name: str,
    planes: np.ndarray,
    bit_depth: int,
    moment: datetime,
    positions: dict[str, float],
) -> str:
    """Return the document about one frame: name, time, geometry, and position on each axis."""
    values = "".join(
        f"<commonframe:axisValue><commonframe:axisType>{axis}</commonframe:axisType>"
        f"<commonframe:position>{position!r}</commonframe:position></commonframe:axisValue>"
        for axis, position in positions.items()
    )
    return f"""<?xml version="1.0" encoding="ASCII"?>
<lsmframe:frameProperties {_NAMESPACES} id="{name}">
  <commonframe:general>
    <base:name>{name}</base:name>
    <base:creationDateTime>{_timestamp(moment)}</base:creationDateTime>
  </commonframe:general>
  <commonframe:imageDefinition>{_geometry(planes, bit_depth)}</commonframe:imageDefinition>
  {values}
</lsmframe:frameProperties>
"""


def _image_document(
    planes: np.ndarray,
    channels: dict[str, str],
    acquired_at: datetime,
    pixel_size_um: float,
    bit_depth: int,
    comment: str,
    objective: tuple[str, float, float] | None,
    steps: dict[str, tuple[float, int]],
) -> str:
    """Return the document about the acquisition: time, channels by id, axes, pixels, objective."""
    channel_elements = "".join(
        f"""
      <commonphase:channel id="{channel_id}" order="{order}">
        <commonphase:name>{escape(name)}</commonphase:name>
        <commonphase:imageDefinition>
          <commonphase:bitCounts>{bit_depth}</commonphase:bitCounts>
        </commonphase:imageDefinition>
        <commonphase:length>
          <commonparam:x>{pixel_size_um!r}</commonparam:x>
          <commonparam:y>{pixel_size_um!r}</commonparam:y>
        </commonphase:length>
        <commonphase:pixelUnit>
          <commonphase:x>MICRO_METER</commonphase:x><commonphase:y>MICRO_METER</commonphase:y>
        </commonphase:pixelUnit>
      </commonphase:channel>"""
        for order, (channel_id, name) in enumerate(channels.items(), start=1)
    )
    axis_elements = "".join(
        f"""
    <commonimage:axis enable="true" paramEnable="true">
      <commonparam:axis>{axis}</commonparam:axis>
      <commonparam:startPosition>0.0</commonparam:startPosition>
      <commonparam:endPosition>{step * (count - 1)!r}</commonparam:endPosition>
      <commonparam:step>{step!r}</commonparam:step>
      <commonparam:maxSize>{count}</commonparam:maxSize>
    </commonimage:axis>"""
        for axis, (step, count) in steps.items()
    )
    lens = ""
    if objective is not None:
        name, magnification, numerical_aperture = objective
        lens = f"""
  <commonimage:objectiveLens>
    <opticalelement:name>{escape(name)}</opticalelement:name>
    <opticalelement:magnification>{magnification!r}</opticalelement:magnification>
    <opticalelement:naValue>{numerical_aperture!r}</opticalelement:naValue>
  </commonimage:objectiveLens>"""
    return f"""<?xml version="1.0" encoding="ASCII"?>
<lsmimage:imageProperties {_NAMESPACES}>
  <commonimage:general>
    <base:creationDateTime>{_timestamp(acquired_at)}</base:creationDateTime>
    <base:comment>{escape(comment)}</base:comment>
  </commonimage:general>
  <commonimage:system><base:systemName>{_PRODUCER}</base:systemName></commonimage:system>
  <commonimage:imageInfo>
    <commonimage:width>{planes.shape[-1]}</commonimage:width>
    <commonimage:height>{planes.shape[-2]}</commonimage:height>
    <commonimage:phase><commonphase:group>{channel_elements}
    </commonphase:group></commonimage:phase>{axis_elements}
  </commonimage:imageInfo>{lens}
</lsmimage:imageProperties>
"""
