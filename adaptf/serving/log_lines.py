"""The log of a serving router: a line of JSON per request or event."""

import json
import logging
import os
import sys
from datetime import UTC, datetime
from typing import Any

from mlflow.pyfunc import scoring_server

LOGGER = logging.getLogger("adaptf.router")


def log(event: str, level: int = logging.INFO, **values: Any) -> None:
    """A line on the logger `adaptf.router`. No audio goes there."""
    if LOGGER.isEnabledFor(level):
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        LOGGER.log(
            level, json.dumps({"time": now, "level": logging.getLevelName(level), "event": event} | values)
        )


def show_log_when_served() -> None:
    """Under `mlflow models serve` nobody sets up this logger. Other programs decide themselves."""
    if scoring_server._SERVER_MODEL_PATH in os.environ and not LOGGER.hasHandlers():
        show_log()


def show_log() -> None:
    """The lines go to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    # A library that calls `logging.warning` gives the root a handler, by which each line would come again.
    LOGGER.propagate = False
