"""A program that answers requests by the code of a registered version: a line of JSON for each.

It is run by its path, with the place of that code and the bundle, and has of adaptf what that place has. On
standard input a line holds the columns of a request, on standard output its rows, or an error; the first line
there says that it is ready.
"""

import json
import os
import signal
import sys
from importlib import import_module
from importlib.machinery import PathFinder
from types import SimpleNamespace
from typing import Any


def answer(code: str, bundle: str) -> None:
    """Until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever is printed

    def say(**values: Any) -> None:
        print(json.dumps(values), file=answers, flush=True)

    sys.path.insert(0, code)
    import pandas as pd
    from mlflow.exceptions import MlflowException

    try:
        router = _router_class()()
        router.load_context(SimpleNamespace(artifacts={"bundle": bundle}, model_config={"live": False}))
    except Exception as error:  # whatever code that is not this raises
        say(error=f"{type(error).__name__}: {error}")
        raise
    say()
    for line in sys.stdin.buffer:
        try:
            table = router.predict(None, pd.DataFrame(json.loads(line)))
        except MlflowException as error:
            say(error=error.message)
        else:
            say(rows=table.to_dict("records"))


def _router_class() -> Any:
    """In the first versions it was in another room."""
    import adaptf

    room = "serving" if PathFinder.find_spec("adaptf.serving", adaptf.__path__) else "tracking"
    return import_module(f"adaptf.{room}.router").DeviceRouter


if __name__ == "__main__":
    answer(*sys.argv[1:])
