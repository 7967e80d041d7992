"""How long `make demo` and `make test` take, in a fresh clone of what is committed, where this environment's
packages are installed.

python benchmarks/commands.py demo test
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from kept import HERE, Pair, command_line, keep, show
from measure import machine, seconds_of

MOST_MINUTES = {"demo": 5, "test": 8}


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("targets", nargs="+", choices=list(MOST_MINUTES))
    args = parser.parse_args()
    print(f"{machine()}\n", flush=True)
    keep(show(pairs(args.targets)), args.keep)


def pairs(targets: list[str]) -> Iterator[Pair]:
    for target in targets:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "adaptf"
            subprocess.run(["git", "clone", "--quiet", str(HERE.parent), str(folder)], check=True)
            seconds = seconds_of(lambda folder=folder, target=target: make(target, folder))
        what = f"`make {target}`, packages installed"
        yield Pair(what, None, 1000 * seconds, per="run", most_ms=60_000 * MOST_MINUTES[target])


def make(target: str, folder: Path) -> None:
    """Raises CalledProcessError where it fails; what it says goes to stderr."""
    paths = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(folder)}
    command = ["make", "--assume-old=install", target]
    subprocess.run(command, cwd=folder, env=os.environ | paths, stdout=sys.stderr, check=True)


if __name__ == "__main__":
    main()
