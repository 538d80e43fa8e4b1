"""One sentence for what a caller gave and what was expected, before a library stumbles on it."""

import math
import numbers
import reprlib
from collections.abc import Collection

import numpy as np
from numpy.typing import ArrayLike, NDArray


def as_array(value: ArrayLike) -> NDArray:
    """Return an array; one without pixels where rows differ in length."""
    try:
        return np.asarray(value)
    except ValueError:
        return np.empty(0, object)


def check_numbers(whole: Collection[str] = (), **values: object) -> None:
    """Refuse a value that is no number, is infinite, or is no integer where it is to be whole."""
    for name, value in values.items():
        given = value[()] if isinstance(value, np.ndarray) else value
        kind = numbers.Integral if name in whole else numbers.Real
        # bool counts as an integer in Python; NaN fails every comparison that follows
        if isinstance(given, bool) or not isinstance(given, kind) or math.isinf(given):
            expected = "a whole number" if name in whole else "a finite number"
            raise ValueError(f"{name} is {shown(value)}, but {expected} was expected.")


def check_choice(name: str, value: object, allowed: Collection[str]) -> None:
    """Refuse what is none of the names allowed."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} is {shown(value)}, but must be one of {', '.join(allowed)}.")


def shown(value: object) -> str:
    """Show any value within a sentence."""
    return " ".join(reprlib.repr(value).split())
