"""Studies in which something other than the cells gives the class away: one trap in each.

The demo's classes differ in their cells and in density. Here cells differ less, so that a trap
pays, and everything but the trap is alike for all classes; "clean" holds no trap. An audit of
shortcuts must ring for what was planted, and for nothing else.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from hsc_utils.simulation.specimen import DENSITY


class Artefacts(NamedTuple):
    """What a field shows that is no cell's; the defaults change nothing."""

    dust: float = 0  # specks in a field of 640 x 640 px, never on a cell
    slope: float = 0  # of the medium's glow from side to side, 1: from half to one and a half
    rim: float = 1  # light that passes the field stop, at the very border
    vivid_day: bool = False  # lamp, camera and illumination differ much from day to day


NO_ARTEFACTS = Artefacts()


class Trap(NamedTuple):
    """A study's plan; what differs between classes is told by class."""

    density: Mapping[str, float]  # cells in a field of 640 x 640 px
    artefacts: Mapping[str, Artefacts]
    contrast: float = 0.6  # 0: cells of all classes alike, 1: as in the demo
    one_class_a_day: bool = False


def _by_class(*values: object) -> dict:
    return dict(zip(DENSITY, values, strict=True))


_ALIKE, _PLAIN = _by_class(40, 40, 40), _by_class(*[NO_ARTEFACTS] * 3)
_DUSTY = _by_class(NO_ARTEFACTS, Artefacts(dust=200, slope=0.7), Artefacts(dust=500, slope=1.4))
_RIMMED = _by_class(Artefacts(rim=0.6), NO_ARTEFACTS, Artefacts(rim=1.4))
TRAPS = {
    "none": Trap(DENSITY, _PLAIN, contrast=1),
    "clean": Trap(_ALIKE, _PLAIN),
    "day": Trap(_ALIKE, _by_class(*[Artefacts(vivid_day=True)] * 3), one_class_a_day=True),
    "background": Trap(_ALIKE, _DUSTY),
    "density": Trap(_by_class(20, 60, 30), _PLAIN),
    "border": Trap(_ALIKE, _RIMMED),
}
_RIM_PX = 4  # so narrow that no cell is found in it: their number would tell the class as well


def field_stop(size: int, passing: float) -> np.ndarray:
    """Return the share of light that passes a field stop: 1 but for a rim with a soft edge."""
    from_side = np.minimum(np.arange(size), np.arange(size)[::-1])
    inward = np.minimum.outer(from_side, from_side)
    return 1 + (passing - 1) * np.clip((_RIM_PX - inward) / 2, 0, 1)
