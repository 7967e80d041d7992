"""Prints the runs that a model came from, as a tree. It makes no run of its own."""

from collections.abc import Sequence
from dataclasses import dataclass

from adaptf.pipeline.command_line import command_arguments
from adaptf.pipeline.lineage import as_text, origin_of, tree
from adaptf.pipeline.printed import print_told
from adaptf.tracking.runs import NONE


@dataclass(frozen=True)
class LineageConfig:
    """Prints the runs that a model came from."""

    model: str = NONE
    """The model: models:/adaptf-s1@production, models:/adaptf-s1/3, or a run's id. `--model` may be left out
    before it."""


def lineage(config: LineageConfig) -> str:
    """The tree as text. Raises UserError where there is no such model."""
    origin = origin_of(config.model)
    return as_text(origin.title, tree(origin.run_id, origin.device))


def arguments_of(given: Sequence[str]) -> list[str]:
    """The model may stand first, without its name."""
    return [f"--model={given[0]}", *given[1:]] if given and not given[0].startswith("-") else list(given)


if __name__ == "__main__":
    print_told(lineage, LineageConfig, name="lineage", arguments=arguments_of(command_arguments()))
