"""How much audio is worked on at once: that of a request, or a part of a longer table."""

from collections.abc import Iterable, Iterator

from adaptf.serving.requests import MAX_ROWS, BadRow, Row, invalid

MAX_REQUEST_SECONDS = 600.0
"""Of audio in one request: some twenty seconds of one core, well inside MLflow's time limit of a minute."""


def one_request(rows: Iterable[Row | BadRow]) -> Iterator[list[Row | BadRow]]:
    """All rows, whose number is bounded already.

    Raises MlflowException (INVALID_PARAMETER_VALUE) as soon as their audio is too much: MP3 and OGG are
    decoded to know how much they hold.
    """
    whole: list[Row | BadRow] = []
    seconds = 0.0
    for row in rows:
        whole.append(row)
        seconds += _seconds_of(row)
        # Time and memory of an answer are bounded only if the request is as a whole.
        if seconds > MAX_REQUEST_SECONDS:
            raise invalid(
                f"the rows hold {seconds:.1f} s of audio together, more than {MAX_REQUEST_SECONDS:g} s: "
                "send fewer at once"
            )
    yield whole


def in_parts(rows: Iterable[Row | BadRow]) -> Iterator[list[Row | BadRow]]:
    """Consecutive rows, as many as a request may hold, however many there are."""
    part: list[Row | BadRow] = []
    seconds = 0.0
    for row in rows:
        more = _seconds_of(row)
        if part and (len(part) == MAX_ROWS or seconds + more > MAX_REQUEST_SECONDS):
            yield part
            part, seconds = [], 0.0
        part.append(row)
        seconds += more
    yield part


def _seconds_of(row: Row | BadRow) -> float:
    return row.seconds if isinstance(row, Row) else 0.0
