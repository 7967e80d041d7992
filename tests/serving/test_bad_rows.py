"""Rows that cannot be answered, where a request asks for them as rows; and tables longer than a request."""

import json
import logging

import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException

from adaptf.serving import limits
from adaptf.serving.local import local_router
from adaptf.serving.router import DeviceRouter

BY_ROW = {"on_error": "row"}
COLUMNS = [
    "scene", "probability", "device_asked", "device_used", "version_used", "probabilities", "error",
]  # fmt: skip


@pytest.fixture
def router(bundle) -> DeviceRouter:
    return local_router(bundle)


@pytest.fixture
def clip(noise, encoded) -> str:
    return encoded(noise(32000))


@pytest.fixture
def mixed(clip, encoded) -> pd.DataFrame:
    """One good row between bad ones: found in the text, in the header, and when it is decoded."""
    loud = encoded(np.full(8000, 100.0, dtype=np.float32), subtype="FLOAT")
    long = encoded(np.zeros(8000 * 61), 8000, "FLAC")
    audio = [None, "/etc/hostname", clip, long, loud, clip]
    return pd.DataFrame({"audio": audio, "device": ["a", None, "b", "a", "b", 3]}, index=[9, 8, 7, 6, 5, 4])


def test_bad_rows_are_rows_with_an_error_where_that_is_asked_for(router, mixed, clip, versions) -> None:
    answer = router.predict(None, mixed, BY_ROW)
    assert list(answer.columns) == COLUMNS
    assert answer.index.tolist() == mixed.index.tolist()
    assert answer.version_used.tolist() == ["", "", versions["b"], "", "", ""]
    assert (answer.scene == "").tolist() == [True, True, False, True, True, True]
    assert answer.device_asked.tolist() == ["a", None, "b", "a", "b", None]
    said = ["audio is null", "is not base64", "", "lasts 61.0 s", "up to 100", "device should be text"]
    for error, words in zip(answer.error, said, strict=True):
        assert words in error and bool(words) == bool(error)
    good = router.predict(None, mixed.iloc[[2]])
    assert good.probabilities.iloc[0] == answer.probabilities[7]


def test_the_answer_to_bad_rows_is_json(router, mixed) -> None:
    rows = json.loads(json.dumps(router.predict(None, mixed, BY_ROW).to_dict("records"), allow_nan=False))
    assert (rows[0]["probability"], rows[0]["probabilities"]) == (None, {})


def test_by_default_the_first_bad_row_is_named_and_nothing_answered(router, mixed) -> None:
    with pytest.raises(MlflowException, match="row 0: audio is null"):
        router.predict(None, mixed)
    with pytest.raises(MlflowException, match="row 1: audio has samples up to 100"):
        router.predict(None, mixed.loc[[7, 5]])


def test_a_bad_row_is_one_row_among_seconds(router, mixed, noise, encoded) -> None:
    table = pd.DataFrame({"audio": ["", encoded(noise(64000))]}, index=[5, 4])
    answer = router.predict(None, table, BY_ROW | {"aggregate": "second"})
    assert answer.index.tolist() == [5, 4, 4]
    assert answer["row"].tolist() == [0, 1, 1] and answer["second"].tolist() == [None, 0.0, 1.0]


def test_a_table_of_bad_rows_alone_is_answered(router) -> None:
    answer = router.predict(None, pd.DataFrame({"audio": ["x", "y"]}), BY_ROW)
    assert list(answer.columns) == COLUMNS and (answer.error != "").all()


def test_bad_rows_are_counted_and_told(router, mixed, caplog) -> None:
    with caplog.at_level(logging.INFO, "adaptf.router"):
        router.predict(None, mixed, BY_ROW)
    line = json.loads(caplog.records[-1].getMessage())
    assert (line["status"], line["rows"], line["failed"]) == ("ok", 1, 5)
    assert line["message"].startswith("row 0: audio is null")
    assert router.monitor.metrics.get_sample_value("adaptf_rows_failed_total") == 5


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"on_error": "skip"}, "on_error should be 'fail' or 'row', got 'skip'"),
        (BY_ROW | {"aggregate": "stream"}, "on_error='row' is not for aggregate='stream'"),
    ],
)
def test_a_wrong_way_with_errors_is_refused(params, said, router, clip) -> None:
    with pytest.raises(MlflowException, match=said):
        router.predict(None, pd.DataFrame({"audio": [clip]}), params)


def test_what_is_wrong_with_the_whole_table_is_refused_all_the_same(router, clip) -> None:
    for table in (pd.DataFrame({"audio": []}), pd.DataFrame({"audio": [clip], "divice": ["a"]})):
        with pytest.raises(MlflowException, match=r"1 to 512 rows, got 0|unknown column 'divice'"):
            router.predict(None, table, BY_ROW)


@pytest.mark.parametrize(("limit", "most"), [("MAX_ROWS", 2), ("MAX_REQUEST_SECONDS", 2.5)])
def test_a_table_longer_than_a_request_is_answered_in_parts(
    limit, most, router, noise, encoded, monkeypatch
) -> None:
    audio = [encoded(noise(32000, seed)) for seed in range(3)] + ["x"]
    table = pd.DataFrame({"audio": audio * 2, "device": list("abab") * 2})
    whole = router.predict(None, table, BY_ROW)
    monkeypatch.setattr(limits, limit, most)
    parts = router.predict(None, table, BY_ROW)
    columns = ["scene", "device_used", "version_used", "error"]
    pd.testing.assert_frame_equal(parts[columns], whole[columns])
    with pytest.raises(MlflowException, match="row 3: audio 'x' is not base64"):
        router.predict(None, table)
