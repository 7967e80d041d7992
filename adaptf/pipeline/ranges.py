"""Ranges of settings: a field says what numbers it takes where it is declared."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Range:
    """Numbers that a setting may have."""

    words: str
    """As in 'lr is -1: it should be above 0'."""
    holds: Callable[[float], bool]


POSITIVE = Range("above 0", lambda number: number > 0)
NOT_NEGATIVE = Range("0 or more", lambda number: number >= 0)
COUNT = Range("1 or more", lambda number: number >= 1)
SHARE = Range("from 0 to 1", lambda number: 0 <= number <= 1)
PART = Range("from 0 to below 1", lambda number: 0 <= number < 1)


def within(range: Range, default: Any) -> Any:
    """A field of a number, or of several, in a range."""
    return field(default=default, metadata={"range": range})
