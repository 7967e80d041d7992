"""Markdown as MLflow's pages show it:
without room between the columns of a table and below it, unless the text makes some."""

import re
from itertools import pairwise

LONGEST_NOTE, LONGEST_DESCRIPTION = 8000, 5000
"""Characters that MLflow keeps of a run's note and of a version's description."""
_GAP, _EMPTY = "&emsp;", "&nbsp;"


def for_page(markdown: str, *, longest: int) -> str:
    """The text with room in and below its tables,
    or as it is where it would become longer than the page keeps.

    A text that has been through here before does not change.
    """
    lines = markdown.replace(_GAP, "").replace(f"\n\n{_EMPTY}", "").split("\n")
    roomy = [re.sub(r" \|(?=.)", f"{_GAP} |", line) if _is_row(line) else line for line in lines]
    ends = [_is_row(line) and not _is_row(following) for line, following in pairwise([*lines, ""])]
    text = "\n".join(
        f"{line}\n\n{_EMPTY}" if ends_table else line for line, ends_table in zip(roomy, ends, strict=True)
    )
    return text if len(text) <= longest else markdown


def _is_row(line: str) -> bool:
    """Of a table, or its rule."""
    return line.startswith("|")
