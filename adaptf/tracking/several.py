"""What a stage goes over, such as several seeds: a child run for each under a parent."""

from dataclasses import dataclass

from mlflow.entities import Run


@dataclass(frozen=True)
class Several:
    """What a stage goes over, a child run for each under a parent, whose tags name them."""

    what: str
    """seed or fold"""

    @property
    def suffix(self) -> str:
        """Of the parent's stage: nothing that asks for a run of the stage takes it for one."""
        return f"_{self.what}s"

    def children(self, run: Run) -> dict[int, str]:
        """The runs by number of their parent; empty for any other run."""
        begin, tags = self.tag(""), run.data.tags
        return {int(name.removeprefix(begin)): tags[name] for name in sorted(tags) if name.startswith(begin)}

    def tag(self, number: int | str) -> str:
        """Of the parent: it holds the child."""
        return f"adaptf.{self.what}.{number}"


SEEDS, FOLDS = Several("seed"), Several("fold")


def with_all_seeds(run: Run) -> list[str]:
    """The ids of the runs for which a run stands: those of all seeds, or itself."""
    return list(SEEDS.children(run).values()) or [str(run.info.run_id)]
