"""What is wrong with a user's data, said once for all of it."""

from collections.abc import Sequence

from adaptf.errors import UserError

SHOWN = 10


class DataError(UserError):
    """Data that can't be used: the message names the rows or files and says what would be right."""


def raise_problems(problems: Sequence[str], *, of: str) -> None:
    """Raises a DataError that lists the first problems and counts the rest;
    does nothing where there are none."""
    if not problems:
        return
    listed = [f"  {problem}" for problem in problems[:SHOWN]]
    if len(problems) > SHOWN:
        listed.append(f"  and {len(problems) - SHOWN} more")
    noun = "problem" if len(problems) == 1 else "problems"
    raise DataError("\n".join([f"{len(problems)} {noun} in {of}:", *listed]))
