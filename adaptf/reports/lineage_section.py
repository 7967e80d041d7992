"""The runs that a report's settings came from, as a section of its page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from adaptf.pipeline.lineage import FILE_STAGE, Node, file_node, flat, node_of
from adaptf.pipeline.run_names import teacher_name
from adaptf.reports.page import Cell, Section, Table, TableRow
from adaptf.tracking.checkpoint_files import labels_of

_EXPLAINED = (
    "Every run that these figures came from, each once: first a setting's, then those that it took from."
)
_CAPTION = (
    "Id: of the MLflow run. Code: Git commit, where the run began in a checkout. Data: begin of the digest "
    "of its data."
)
_LINKED = (
    " Links open MLflow's pages where this page is opened by itself; MLflow's viewer of artifacts follows "
    "none."
)


@dataclass(frozen=True)
class Origins:
    """Runs with all that they came from."""

    roots: tuple[tuple[Node, str], ...] = ()
    """Evaluated runs (or checkpoint files), each with its setting."""
    teachers: tuple[str, ...] = ()
    """Kind and network of each: a small network is named, because it is no BEATs."""

    @property
    def nodes(self) -> list[tuple[Node, str]]:
        """Every run once, with its setting where it was evaluated."""
        found: dict[str, tuple[Node, str]] = {}
        settings = {root.run_id: setting for root, setting in self.roots}
        for root, _ in self.roots:
            for node in flat(root):
                found.setdefault(node.run_id, (node, settings.get(node.run_id, "")))
        return list(found.values())


def origins_of(run_ids: Mapping[str, Sequence[str]]) -> Origins:
    """Of the runs (or checkpoint files) by setting."""
    known: dict[str, Node] = {}
    roots = tuple(
        (_node_or_file(value, known), setting) for setting, values in run_ids.items() for value in values
    )
    taught = [node.run_id for node, _ in Origins(roots).nodes if node.stage == "teacher"]
    return Origins(roots, tuple(dict.fromkeys(map(teacher_name, taught))))


def _node_or_file(value: str, known: dict[str, Node]) -> Node:
    """Checkpoint files came from no run that is known here."""
    labels = labels_of(value)
    if not labels:
        return node_of(value, None, known)
    files = tuple(map(file_node, labels.values()))
    return (
        files[0]
        if len(files) == 1
        else Node(value, name=f"files of {len(files)} devices", stage=FILE_STAGE, upstream=files)
    )


def lineage_section(origins: Origins, tracking_uri: str) -> Section:
    """A row per run. Links are there where a server shows the runs."""
    server = tracking_uri.rstrip("/") if tracking_uri.startswith(("http://", "https://")) else ""
    rows = tuple(_lineage_row(node, setting, server) for node, setting in origins.nodes)
    table = Table(_CAPTION + _LINKED * bool(server), ("run", "setting", "id", "score", "code", "data"), rows)
    return Section("Where the models come from", "Lineage", (_EXPLAINED,), (table,))


def _lineage_row(node: Node, setting: str, server: str) -> TableRow:
    """A run that is gone, or a file, says so in place of its score."""
    link = (
        f"{server}/#/experiments/{node.experiment_id}/runs/{node.run_id}"
        if server and node.experiment_id
        else ""
    )
    name, value = node.scores[0] if len(node.scores) == 1 else ("", 0.0)
    cells = (
        Cell(setting, words=True),
        Cell("" if node.stage == FILE_STAGE else node.run_id, code=True, words=True, link=link),
        Cell(node.remark or (f"{name} {value:.4g}" if name else ""), words=True),
        Cell(node.commit[:7], code=True, words=True),
        Cell(node.data_digest[:8], code=True, words=True),
    )
    return TableRow(node.name or node.run_id, cells)
