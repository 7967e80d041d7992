"""The one kind of error that a user is meant to read, and what nobody is meant to read."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

_PASSWORD = re.compile(r"(?<=//)([^/@:\s]*):\S*@|([?&](?:password|passwd|sslpassword)=)[^&\s]*")
"""Of an address: behind its user, up to the last @ (not all libraries agree on which), or as a parameter."""


def without_passwords(text: str) -> str:
    """A text as people may read it: addresses of servers and databases have lost their passwords."""
    return _PASSWORD.sub(lambda found: f"{found[1]}@" if found[2] is None else found[2], text)


class UserError(ValueError):
    """Something that the user gave or lacks: the message names it and says what would be right;
    no traceback is needed. Passwords in addresses are left out of the message."""

    def __init__(self, message: str) -> None:
        super().__init__(without_passwords(message))


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
