"""The short benchmarks one after the other, each ratio beside the one that was kept last.

python benchmarks/short.py           make bench
python benchmarks/short.py --keep    make bench KEEP=yes

They take some minutes on two cores. What fell is told and fails nothing: machines differ.
"""

import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kept import HERE, Kept, as_ratio_or_time, command_line, read, write
from measure import machine

SHORT = (
    "transforms.py",
    "training.py --batch 64 --repeats 3",
    "teachers.py",
    "startup.py",
    "data.py --clips 1024",
    "inference.py --clips 1024 --loop-clips 256",
    "shadow.py --pairs 2",
    "serving.py --seconds 15",
)
FELL = 0.8
"""What is left of a gain, of which is told."""


def main() -> None:
    args = command_line(__doc__).parse_args()
    print(machine(), flush=True)
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "measured.json"
        broken = [command for place, command in enumerate(SHORT, start=1) if not runs(command, place, file)]
        measured = read(file)
    for line in falls(measured, read()):
        print(line)
    if args.keep:
        write(measured, args.keep)
    if broken:
        sys.exit(f"broke: {', '.join(broken)}")


def runs(command: str, place: int, file: Path) -> bool:
    """Whether it did, to the end; its rows are in the file then."""
    print(f"\n## {place} of {len(SHORT)}: python benchmarks/{command}\n", flush=True)
    script, *arguments = shlex.split(command)
    start = time.monotonic()
    done = subprocess.run([sys.executable, str(HERE / script), *arguments, f"--keep-in={file}"])
    print(f"\n({time.monotonic() - start:.0f} s)", flush=True)
    return done.returncode == 0


def falls(measured: list[Kept], kept: list[Kept]) -> list[str]:
    """What is told at the end."""
    last = {(row.script, row.pair.what): row.pair for row in kept}
    pairs = [(row, last[key]) for row in measured if (key := (row.script, row.pair.what)) in last]
    fell = [
        f"- {row.script}, {row.pair.what}: "
        f"{as_ratio_or_time(before)} before, {as_ratio_or_time(row.pair)} now"
        for row, before in pairs
        if row.pair.gain_over(before) < FELL
    ]
    known = f"{len(pairs)} of {len(measured)} rows were kept before"
    return [f"\n{known}; {len(fell)} fell by more than {1 - FELL:.0%}{':' if fell else '.'}", *fell]


if __name__ == "__main__":
    main()
