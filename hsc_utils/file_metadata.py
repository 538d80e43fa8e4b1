"""What the XML documents in microscope files say of an acquisition."""

from collections.abc import Iterator
from datetime import datetime
from xml.etree import ElementTree

_UNITS_UM = {"µm": 1.0, "um": 1.0, "micron": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4}


def ome_pixel_size_um(document: str) -> float | None:
    """Return the side of a pixel in micrometres, or None where no known unit is given."""
    size = ome_attribute(document, "Pixels", "PhysicalSizeX")
    unit = ome_attribute(document, "Pixels", "PhysicalSizeXUnit") or "µm"
    return float(size) * _UNITS_UM[unit] if size and unit in _UNITS_UM else None


def ome_attribute(document: str, element: str, attribute: str) -> str:
    """Return an attribute of the first such element of an OME document, or nothing."""
    found = next(_elements(document, element), None)
    return found.get(attribute, "") if found is not None else ""


def ome_channels(document: str) -> tuple[str, ...]:
    """Return the channels' names; a channel without one is called by its number."""
    channels = enumerate(_elements(document, "Channel"))
    return tuple(channel.get("Name") or f"C={k}" for k, channel in channels)


def xml_text(document: str, element: str) -> str:
    """Return the text of the first such element, whatever its namespace, or nothing."""
    texts = (found.text for found in _elements(document, element))
    return next((text.strip() for text in texts if text), "")


def objective_name(document: str) -> str:
    """Return the name of the objective lens in Olympus's document of the acquisition."""
    lens = next(_elements(document, "objectiveLens"), None)
    return xml_text(ElementTree.tostring(lens, "unicode"), "name") if lens is not None else ""


def _elements(document: str, name: str) -> Iterator[ElementTree.Element]:
    """Go through the elements of a document by local name; an empty document has none."""
    if document:
        for element in ElementTree.fromstring(document.encode()).iter():
            if element.tag.rpartition("}")[2] == name:
                yield element


def acquisition_time(text: str | None) -> datetime | None:
    """Read ISO 8601 or TIFF's ``YYYY:MM:DD HH:MM:SS``; nothing else counts as a time."""
    for layout in (datetime.fromisoformat, lambda t: datetime.strptime(t, "%Y:%m:%d %H:%M:%S")):
        try:
            return layout((text or "").strip())
        except ValueError:
            continue
    return None
