"""What the benchmarks keep of their runs, in kept.json, and the table of it in README.md.

python benchmarks/kept.py    writes that table anew; whatever keeps a run does so too
"""

import argparse
import json
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from pathlib import Path

import torch
from measure import processor

HERE = Path(__file__).parent
KEPT, README = HERE / "kept.json", HERE / "README.md"
BEGIN, END = "<!-- the table: python benchmarks/kept.py -->\n", "<!-- end of the table -->\n"
HEAD = (
    "| before or plainly, and as it is | per | before | now | ratio | goal | threads | on | by |\n"
    "|---|---|---:|---:|---:|---:|---:|---|---|\n"
)


@dataclass(frozen=True)
class Pair:
    """Two ways of doing the same, or one that has nothing to stand beside; medians."""

    what: str
    """No other row of the script has it: by it the last kept row is found."""
    plain_ms: float | None
    our_ms: float
    per: str = "clip"
    least_ratio: float | None = None
    """A goal."""
    most_ms: float | None = None
    """A goal."""
    threads: int = field(default_factory=torch.get_num_threads)

    @property
    def ratio(self) -> float | None:
        return None if self.plain_ms is None else self.plain_ms / self.our_ms

    @property
    def misses_its_goal(self) -> bool:
        too_low = self.least_ratio is not None and (self.ratio or 0.0) < self.least_ratio
        return too_low or (self.most_ms is not None and self.our_ms > self.most_ms)

    def gain_over(self, other: "Pair") -> float:
        """By ratios, which tell of two machines too; without them by times."""
        if self.ratio and other.ratio:
            return self.ratio / other.ratio
        return other.our_ms / self.our_ms


@dataclass(frozen=True)
class Kept:
    """A pair, and how it was measured."""

    command: str
    """Script and arguments."""
    pair: Pair
    machine: str
    day: str
    """As ISO 8601 has it."""

    @property
    def script(self) -> str:
        return self.command.split()[0]


def command_line(description: str | None) -> argparse.ArgumentParser:
    """Of a script that can keep what it measures: its `keep` is the file for `keep`, or None."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--keep",
        action="store_const",
        const=KEPT,
        help="in kept.json and the README, in the place of what this script kept before",
    )
    parser.add_argument("--keep-in", type=Path, dest="keep", metavar="FILE", help="in another file")
    return parser


def show(pairs: Iterable[Pair]) -> list[Pair]:
    """Prints a table, each row when it is measured, beside the ratio that was kept last."""
    last = {kept.pair.what: kept.pair for kept in read() if kept.script == Path(sys.argv[0]).name}
    print("| before or plainly, and as it is | per | before | now | ratio | kept last |")
    print("|---|---|---:|---:|---:|---:|", flush=True)
    shown = []
    for pair in pairs:
        before = as_ratio_or_time(last[pair.what]) if pair.what in last else ""
        print(f"| {' | '.join([*cells(pair), before])} |", flush=True)
        shown.append(pair)
    return shown


def keep(pairs: Sequence[Pair], file: Path | None) -> None:
    """As rows of the running script; None keeps nothing."""
    if file is None:
        return
    command, machine, day = command_of(sys.argv), processor(), date.today().isoformat()
    write([Kept(command, rounded(pair), machine, day) for pair in pairs], file)


def rounded(pair: Pair) -> Pair:
    """To five digits."""
    digits = {name: float(f"{value:.5g}") for name, value in asdict(pair).items() if isinstance(value, float)}
    return replace(pair, **digits)


def command_of(argv: Sequence[str]) -> str:
    """Without what was said of keeping."""
    said = [word for word in argv[1:] if word != "--keep" and not word.startswith("--keep-in=")]
    return shlex.join([Path(argv[0]).name, *said])


def read(file: Path = KEPT) -> list[Kept]:
    rows = json.loads(file.read_text()) if file.exists() else []
    return [Kept(**row | {"pair": Pair(**row["pair"])}) for row in rows]


def write(rows: Sequence[Kept], file: Path = KEPT) -> None:
    """In the place of all rows of the same scripts, a line each; README's table with kept.json."""
    scripts = {row.script for row in rows}
    others = [row for row in read(file) if row.script not in scripts]
    lines = [json.dumps(asdict(row)) for row in sorted([*others, *rows], key=lambda row: row.script)]
    file.write_text("[\n" + ",\n".join(lines) + "\n]\n")
    if file == KEPT:
        README.write_text(with_table(README.read_text(), read()))


def with_table(text: str, rows: Sequence[Kept]) -> str:
    """Raises ValueError where the text has no place for the table."""
    before, _, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"{README} should have the lines {BEGIN.strip()} and {END.strip()}")
    return f"{before}{BEGIN}\n{table(rows)}\n{END}{after}"


def table(rows: Sequence[Kept]) -> str:
    """Markdown, the machines by letters beneath it."""
    letters = {machine: chr(ord("A") + n) for n, machine in enumerate(sorted({row.machine for row in rows}))}
    lines = [
        f"| {' | '.join([*cells(row.pair), goal(row.pair), str(row.pair.threads)])} "
        f"| {letters[row.machine]}, {row.day} | `{row.command}` |\n"
        for row in rows
    ]
    return HEAD + "".join(lines) + "".join(f"\n{letter}: {name}\n" for name, letter in letters.items())


def cells(pair: Pair) -> list[str]:
    plain = "" if pair.plain_ms is None else duration(pair.plain_ms)
    return [
        pair.what,
        pair.per,
        plain,
        duration(pair.our_ms),
        "" if pair.ratio is None else times(pair.ratio),
    ]


def goal(pair: Pair) -> str:
    wanted = [] if pair.least_ratio is None else [times(pair.least_ratio)]
    wanted += [] if pair.most_ms is None else [duration(pair.most_ms)]
    return " and ".join(wanted) + (" (missed)" if pair.misses_its_goal else "")


def as_ratio_or_time(pair: Pair) -> str:
    return duration(pair.our_ms) if pair.ratio is None else times(pair.ratio)


def times(ratio: float) -> str:
    return f"{ratio:.1f}x" if ratio < 10 else f"{ratio:.0f}x"


def duration(ms: float) -> str:
    """Three digits."""
    return f"{ms:.3g} ms" if ms < 999.5 else f"{ms / 1000:.3g} s"


if __name__ == "__main__":
    write(read())
