"""The command `adaptf <stage> ...`: what `python -m adaptf.mlproject.<stage> ...` runs.

It reads of the stages' files what they say of themselves, and imports none but the one that is asked for.
"""

import ast
import runpy
import sys
from difflib import get_close_matches
from pathlib import Path

_STAGES = Path(__file__).with_name("mlproject")


def main() -> None:
    """Runs the stage that the command line names, with the rest of it, or tells which there are."""
    stage, *arguments = sys.argv[1:] or ["--help"]
    stages = {path.stem: path for path in sorted(_STAGES.glob("[!_.]*.py"))}
    if stage in ("-h", "--help"):
        print("usage: adaptf STAGE [--preset NAME] [--SECTION.FIELD VALUE ...]\n")
        print("\n".join(f"  {name:<10} {_purpose_of(path)}" for name, path in stages.items()))
        print("\nadaptf STAGE --help tells its settings.")
        return
    if stage not in stages:
        near = get_close_matches(stage, stages, 1)
        hint = f", did you mean {near[0]!r}?" if near else ": see adaptf --help"
        sys.exit(f"adaptf: there is no stage {stage!r}{hint}")
    sys.argv[1:] = arguments
    runpy.run_module(f"adaptf.mlproject.{stage}", run_name="__main__", alter_sys=True)


def _purpose_of(path: Path) -> str:
    """The first sentence of its docstring, without "Stage `name`:"."""
    told = " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split())
    sentence = told.partition(". ")[0].removeprefix(f"Stage `{path.stem}`: ").removesuffix(".")
    return sentence[:1].upper() + sentence[1:]


if __name__ == "__main__":
    main()
