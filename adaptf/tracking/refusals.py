"""What a tracking server refuses, or a proxy in front of it, in the words of its user."""

import re
from collections.abc import Iterator

import requests
from mlflow.exceptions import MlflowException

CREDENTIALS = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
CERTIFICATE_HINT = (
    "Where its certificate is not signed by a public authority, name the file of that, or of who signed it, "
    "in MLFLOW_TRACKING_SERVER_CERT_PATH; it has to be for the name in MLFLOW_TRACKING_URI"
)
_CERTIFICATE = "certificate verify failed"
_OF_MLFLOW = "/api/2.0/mlflow"
"""In every address that MLflow asks: a download from elsewhere may be refused, too."""
_STATUS = re.compile(r"failed with error code (\d{3}) != \d{3}\. Response body: '(.*)'", re.DOTALL)
"""MLflow's words for an answer that is no JSON."""


def refusal(error: BaseException) -> str | None:
    """Why asking again is of no use, and what is: wrong credentials, no right, too large a file,
    a certificate that nobody trusts. None for every other error."""
    for one in _chain(error):
        if isinstance(one, MlflowException) and _CERTIFICATE in str(one):
            return f"the MLflow server can't be trusted: {cause(one)}. {CERTIFICATE_HINT}"
        if (found := _status(one)) and (told := _of_status(*found, _what_was_sent(one))):
            return f"the MLflow server {told}"
    return None


def of_answer(answer: requests.Response) -> str | None:
    """The same of an answer; None where it is no refusal."""
    return _of_status(answer.status_code, answer.text, "")


def cause(error: BaseException) -> str:
    """What the system said, which libraries wrap in errors of their own."""
    *_, last = _chain(error)
    return str(getattr(last, "strerror", None) or last)


def shortly(text: str) -> str:
    """What a server said, without the tags of a page."""
    return " ".join(re.sub(r"<[^>]*>", " ", text).split())[:200]


def _of_status(status: int, text: str, sent: str) -> str | None:
    if status == 401:
        return (
            f"wants to know who asks, or does not take these credentials (it answers 401): set {CREDENTIALS}"
        )
    if status == 403:
        return f"forbids it (it answers 403: {shortly(text)})"
    if status == 413:
        return (
            f"does not take {sent or 'so much'} at once: what stands in front of it has a limit (it answers "
            f"413: {shortly(text)}), which has to be higher there (client_max_body_size of nginx)"
        )
    return None


def _status(error: BaseException) -> tuple[int, str] | None:
    """Status and text of the answer that became this error."""
    if (
        isinstance(error, requests.HTTPError)
        and error.response is not None
        and _OF_MLFLOW in error.response.url
    ):
        return error.response.status_code, error.response.text
    if isinstance(error, MlflowException):
        if found := _STATUS.search(str(error)):
            return int(found[1]), found[2]
        if error.error_code == "PERMISSION_DENIED":
            return 403, str(error).removeprefix("PERMISSION_DENIED: ")
    return None


def _what_was_sent(error: BaseException) -> str:
    """Such as `report.png (1.3 MB)`; '' where nothing tells."""
    request = getattr(error, "request", None)
    size = request.headers.get("Content-Length") if request is not None else None
    return f"{request.url.rpartition('/')[2]} ({int(size) / 1e6:.1f} MB)" if request and size else ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, and those behind it."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__
