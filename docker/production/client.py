"""A client that asks a router all the time, and counts what it is answered."""

import base64
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from threading import Event, Thread

import requests

PAUSE_SECONDS = 0.25
PATIENCE_SECONDS = 120.0
"""For how long a request is sent again while nobody listens, or the server asks to be left alone (503)."""


@dataclass
class Client:
    """Runs until it is stopped."""

    url: str
    clips: list[Path]
    device: str
    answered: int = 0
    again: int = 0
    """How often a request had to be sent again."""
    longest_seconds: float = 0.0
    """From the first sending of a request to its answer."""
    lost: list[str] = field(default_factory=list)
    versions: Counter[str] = field(default_factory=Counter)
    """How many answers each version gave, in the order of their first ones."""
    _over: Event = field(default_factory=Event)

    def start(self) -> None:
        self._thread = Thread(target=self._ask_all_the_time)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _ask_all_the_time(self) -> None:
        for clip in cycle(self.clips):
            audio = base64.b64encode(clip.read_bytes()).decode()
            self._ask({"dataframe_records": [{"audio": audio, "device": self.device}]})
            if self._over.wait(PAUSE_SECONDS):
                return

    def _ask(self, body: dict[str, object]) -> None:
        begun = time.monotonic()
        while True:
            try:
                response = requests.post(f"{self.url}/invocations", json=body, timeout=60)
                if response.status_code == 200:
                    (row,) = response.json()["predictions"]
                    self.answered += 1
                    self.versions[row["version_used"]] += 1
                    break
                why = f"{response.status_code}: {response.text[:200]}"
                worth_again = response.status_code == 503
            except requests.ConnectionError as error:
                why, worth_again = str(error), True
            except (requests.RequestException, ValueError, KeyError) as error:
                why, worth_again = repr(error), False
            if not worth_again or time.monotonic() - begun > PATIENCE_SECONDS:
                self.lost.append(why)
                break
            self.again += 1
            time.sleep(PAUSE_SECONDS)
        self.longest_seconds = max(self.longest_seconds, time.monotonic() - begun)
