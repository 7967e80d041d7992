"""What is told of an answer that refuses, made by hand (tests/docker/test_guarded_server.py asks servers)."""

import pytest
import requests
from mlflow.exceptions import MlflowException

from adaptf.tracking.refusals import refusal

ARTIFACTS = "https://mlflow.example.org/api/2.0/mlflow-artifacts/artifacts/1/report.png"


def http_error(url: str, status: int, text: str) -> requests.HTTPError:
    answer = requests.Response()
    answer.url, answer.status_code, answer._content = url, status, text.encode()
    return requests.HTTPError(f"{status} of {url}", response=answer)


def test_a_page_of_html_is_told_without_its_tags() -> None:
    error = http_error(ARTIFACTS, 413, "<html><h1>413 Request Entity Too Large</h1>\n<hr>nginx</html>")
    told = refusal(error)
    assert told and "(it answers 413: 413 Request Entity Too Large nginx)" in told


def test_the_refusal_behind_another_error_is_told() -> None:
    try:
        try:
            raise MlflowException("API request to x failed with error code 401 != 200. Response body: 'who?'")
        except MlflowException as error:
            raise KeyError("bundle") from error
    except KeyError as error:
        told = refusal(error)
    assert told and "set MLFLOW_TRACKING_USERNAME" in told


@pytest.mark.parametrize(
    "error",
    [
        http_error("https://example.org/model.pt", 401, "who?"),
        http_error(ARTIFACTS, 404, "not there"),
        MlflowException("API request to x failed with error code 500 != 200. Response body: 'oh'"),
        OSError("certificate verify failed"),
        ValueError("failed with error code 401 != 200. Response body: ''"),
    ],
)
def test_what_others_refuse_and_what_may_pass_is_no_refusal(error: Exception) -> None:
    assert refusal(error) is None
