"""The one kind of error that a user is meant to read."""

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """Something that the user gave or lacks: the message names it and says what would be right; no traceback is needed."""


@contextmanager
def in_section(section: str) -> Iterator[None]:
    """A value out of range becomes an error that says which section of the settings it stands in."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"{section}: {error}") from error
