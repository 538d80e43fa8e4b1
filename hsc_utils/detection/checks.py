"""One sentence for what a caller gave and what was expected, before a library stumbles on it."""

import math
import numbers
import reprlib
from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray


def check(holds: bool, name: str, value: object, expected: str) -> None:
    """Refuse a value for which something does not hold."""
    if not holds:
        shown = " ".join(reprlib.repr(value).split())
        raise ValueError(f"{name} is {shown}, but {expected}.")


def check_choice(name: str, value: object, allowed: Collection[str]) -> None:
    """Refuse what is none of the names allowed."""
    known = isinstance(value, str) and value in allowed
    check(known, name, value, f"must be one of {', '.join(allowed)}")


def check_numbers(whole: Collection[str] = (), **values: object) -> None:
    """Refuse a value that is no number, is infinite, or is no integer where it is to be whole."""
    for name, value in values.items():
        given = value[()] if isinstance(value, np.ndarray) else value
        kind, what = (numbers.Integral, "whole") if name in whole else (numbers.Real, "finite")
        # bool counts as an integer in Python; NaN fails every comparison that follows
        is_number = isinstance(given, kind) and not isinstance(given, bool)
        fits = is_number and not math.isinf(given)
        check(fits, name, value, f"a {what} number was expected")


def check_rules(given: Mapping[str, object], rules: Mapping[str, bool]) -> None:
    """Refuse values of which a rule does not hold."""
    for rule, holds in rules.items():
        if not holds:
            values = ", ".join(f"{name} {value}" for name, value in given.items())
            raise ValueError(f"{rule} was expected, but given are {values}.")


def as_array(value: ArrayLike) -> NDArray:
    """Return an array; one without pixels where rows differ in length."""
    try:
        return np.asarray(value)
    except ValueError:
        return np.empty(0, object)
