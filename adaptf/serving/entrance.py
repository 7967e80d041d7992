"""How many requests and bytes a served router lets in, so that its memory is bounded whatever they hold."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

MAX_BODY_BYTES = 64 * 2**20
"""Ten minutes of 16-bit samples at 32 kHz are 51 million in base64."""
REQUESTS_AT_ONCE = 8
"""That are read, computed and written."""
MOST_REQUESTS = 64
"""These, those that wait, and those that still send their bodies."""
MOST_BYTES = 96 * 2**20
"""Of all their bodies."""
RETRY_SECONDS = 2


class TurnedAway(Exception):
    """A request that gets no answer: its HTTP status, and what the client is told."""

    def __init__(self, status: int, message: str, *, counted_as: str) -> None:
        """`counted_as`: its status in the metrics."""
        super().__init__(message)
        self.status, self.counted_as = status, counted_as


@dataclass
class Place:
    """Of one request."""

    body: bytearray = field(default_factory=bytearray)
    """Whoever has read it may clear it."""
    bytes: int = 0
    """Of the body; they count until the request is answered."""


class Entrance:
    """Counts what is inside. All is called by the server's one thread."""

    def __init__(self) -> None:
        self.requests, self.bytes = 0, 0

    @contextmanager
    def place(self) -> Iterator[Place]:
        """For one request. Raises TurnedAway where there is none."""
        if self.requests >= MOST_REQUESTS:
            raise _busy()
        self.requests += 1
        place = Place()
        try:
            yield place
        finally:
            self.requests -= 1
            self.bytes -= place.bytes

    async def fill(self, place: Place, pieces: AsyncIterator[bytes]) -> None:
        """Reads a body. Raises TurnedAway at the first piece that is too much."""
        async for piece in pieces:
            check_size(place.bytes + len(piece))
            if self.bytes + len(piece) > MOST_BYTES:
                raise _busy()
            self.bytes += len(piece)
            place.bytes += len(piece)
            place.body += piece


def check_size(body_bytes: int) -> None:
    """Raises TurnedAway for a body that is too large."""
    if body_bytes > MAX_BODY_BYTES:
        message = f"a body may have {MAX_BODY_BYTES} bytes: send fewer rows at once"
        raise TurnedAway(413, message, counted_as="too large")


def _busy() -> TurnedAway:
    message = f"too many requests are under way: try again in {RETRY_SECONDS} s"
    return TurnedAway(503, message, counted_as="busy")
