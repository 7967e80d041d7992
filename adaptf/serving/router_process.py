"""A router in a process that runs the code of a registered version, whatever code is installed here."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

import mlflow
import pandas as pd
import torch
from mlflow.exceptions import MlflowException

from adaptf.errors import UserError

_ANSWERING = Path(__file__).with_name("answering.py")
_END_SECONDS = 10.0


class RouterProcess:
    """Any number of threads may ask it at a time; it answers one request after the other, on all its
    threads. It ends when it is closed, or with this process."""

    def __init__(self, code: Path, bundle: Path, *, what: str) -> None:
        """`code`: a folder or archive that Python imports `adaptf` from; `what`: the version.
        Raises UserError where it does not start."""
        self.what = what
        self._one_at_a_time = Lock()
        # -P: or the folder of the program, which is ours, would be the first that modules are looked for in.
        command = [sys.executable, "-P", str(_ANSWERING), str(code), str(bundle)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_environment()
        )
        try:
            ready = self._read()
            if "error" in ready:
                raise UserError(f"{what} does not start by its own code: {ready['error']}")
        except BaseException:
            self.close()
            raise

    def predict(self, context: Any, model_input: pd.DataFrame, /) -> pd.DataFrame:
        """As `DeviceRouter.predict`, without parameters. Raises UserError where the process has ended."""
        with self._one_at_a_time:
            answer = self._ask(model_input.to_dict("list"))
        if "error" in answer:
            raise MlflowException.invalid_parameter_value(answer["error"])
        return pd.DataFrame(answer["rows"], index=model_input.index)

    def close(self) -> None:
        """Ends the process after the request in hand."""
        pipes = self._process.stdin, self._process.stdout
        for pipe in pipes:
            if pipe:
                with suppress(OSError):  # what was not sent yet
                    pipe.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ask(self, request: dict[Any, Any]) -> dict[str, Any]:
        assert self._process.stdin
        with suppress(BrokenPipeError):  # reading says it
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        """Its next line."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            ended = self._process.wait()
            raise UserError(
                f"the process that answers by the code of {self.what} has ended ({ended}); its last words "
                "stand above"
            )
        return dict(json.loads(line))


def _environment() -> dict[str, str]:
    """That of this process, with what it may have been told since."""
    return os.environ | {
        "MLFLOW_TRACKING_URI": mlflow.get_tracking_uri(),
        "MLFLOW_REGISTRY_URI": mlflow.get_registry_uri(),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
