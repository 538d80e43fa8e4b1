"""The XML documents inside an OIR file, with the element names that its readers look for."""

from datetime import datetime
from xml.sax.saxutils import escape

import numpy as np

# The header's producer field holds 8 characters; FluoView writes its own name there.
PRODUCER = "hscutils"

_NAMESPACES = " ".join(
    f'xmlns:{name}="http://www.olympus.co.jp/hpf/model/{name}"'
    for name in (
        *("base", "commonframe", "commonimage", "commonparam", "commonphase"),
        *("fileinfo", "lsmframe", "lsmimage", "opticalelement"),
    )
)


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


def file_document(comment: str) -> str:
    """Return the document about the file: version of the format, and a comment."""
    return f"""<?xml version="1.0" encoding="ASCII"?>
<fileinfo:fileInfomation {_NAMESPACES}>
  <base:version>2.1.2.3</base:version>
  <base:comment>{escape(comment)}</base:comment>
</fileinfo:fileInfomation>
"""


def frame_document(
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


def image_document(
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
  <commonimage:system><base:systemName>{PRODUCER}</base:systemName></commonimage:system>
  <commonimage:imageInfo>
    <commonimage:width>{planes.shape[-1]}</commonimage:width>
    <commonimage:height>{planes.shape[-2]}</commonimage:height>
    <commonimage:phase><commonphase:group>{channel_elements}
    </commonphase:group></commonimage:phase>{axis_elements}
  </commonimage:imageInfo>{lens}
</lsmimage:imageProperties>
"""
