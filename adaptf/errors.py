"""The one kind of error that a user is meant to read."""

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """Something that the user gave or lacks: the message names it and says what would be right;
    no traceback is needed."""


class SectionError(UserError):
    """The same of a setting; the message begins with the section that it stands in."""

    def __init__(self, section: str, problem: str) -> None:
        super().__init__(f"{section}: {problem}")
        self.section, self.problem = section, problem


@contextmanager
def in_section(section: str) -> Iterator[None]:
    """A value out of range becomes an error that says which section of the settings it stands in,
    as in `train.augment`."""
    try:
        yield
    except SectionError as error:
        raise SectionError(f"{section}.{error.section}", error.problem) from error
    except ValueError as error:
        raise SectionError(section, str(error)) from error
