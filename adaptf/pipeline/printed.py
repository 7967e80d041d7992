"""Entry points that tell something and make no run."""

import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from adaptf.errors import UserError
from adaptf.pipeline.command_line import parse
from adaptf.pipeline.stage import quiet_libraries
from adaptf.tracking.store import open_store

_Config = TypeVar("_Config")


def print_told(
    tell: Callable[[_Config], str], config: type[_Config], *, name: str, arguments: Sequence[str]
) -> None:
    """The body of the entry point `name`: prints what is told of the settings given.

    A user's mistake ends it with its message alone.
    """
    quiet_libraries()
    given = parse(config, stage=name, arguments=arguments)
    try:
        open_store()
        print(tell(given))
    except UserError as error:
        sys.exit(f"\n{name}: {error}")
