"""Which network answers, what it is given, what is answered, and which bundles are refused."""

import base64
import json
import threading
from collections.abc import Callable
from io import BytesIO
from itertools import compress, product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.exceptions import MlflowException

from adaptf.audio import cores
from adaptf.audio.logmel import LogMel
from adaptf.compression.runtime import Network
from adaptf.serving import classify, limits, requests
from adaptf.serving.bundle import BundleError, write_sums
from adaptf.serving.router import DeviceRouter

RATE = 32000
ROUNDED = 2e-3
"""By so much probabilities may differ from those of the same network with other clips beside: a sum in the
log-mel is rounded otherwise, and INT8 then takes the next step. Other networks' are 0.1 away."""


def loaded(bundle: Path) -> DeviceRouter:
    model = DeviceRouter()
    model.load_context(SimpleNamespace(artifacts={"bundle": str(bundle)}, model_config=None))
    return model


@pytest.fixture(scope="module")
def model(bundle: Path) -> DeviceRouter:
    return loaded(bundle)


def probabilities(response: pd.DataFrame) -> np.ndarray:
    return pd.json_normalize(list(response.probabilities)).to_numpy()


def directly(network: Network, waveform: np.ndarray) -> np.ndarray:
    """Probabilities of one clip, (scenes,)."""
    with torch.no_grad():
        return network(LogMel(bands=64)(torch.from_numpy(waveform)[None])).double().softmax(dim=1)[0].numpy()


@pytest.mark.arithmetic
@pytest.mark.parametrize(
    ("asked", "used"),
    [
        ("a", "a"),
        ("b", "b"),
        ("unknown", "unknown"),
        ("", "unknown"),
        (None, "unknown"),
        (np.nan, "unknown"),
        ("A", "unknown"),
        (" a", "a"),
        ("a\u00a0", "a"),
        ("s4", "unknown"),
        ("adaptf-a", "unknown"),
        ("Unknown", "unknown"),
    ],
)
def test_a_known_device_gets_its_network_and_every_other_the_general_one(
    asked, used, model, networks, versions, noise, encoded
):
    clip = noise(32000)
    response = model.predict(
        None, pd.DataFrame({"audio": [encoded(clip, subtype="FLOAT")], "device": [asked]})
    )
    assert response.device_used[0] == used
    assert response.version_used[0] == versions[used]
    assert response.device_asked[0] == (asked if isinstance(asked, str) else None)
    np.testing.assert_allclose(probabilities(response)[0], directly(networks[used], clip), atol=ROUNDED)


NAMES = {
    "a": "a",
    "b": "b",
    "unknown": "unknown",
    "": "unknown",
    None: "unknown",
    "A": "unknown",
    " a": "a",
    "s4": "unknown",
}
"""Device asked for -> device used."""


def test_every_combination_of_names_in_a_request_is_answered_by_the_right_versions(
    model, networks, versions, noise, encoded
):
    clip = noise(RATE)
    audio = encoded(clip, subtype="FLOAT")
    expected = {device: directly(network, clip) for device, network in networks.items()}
    for chosen in product([False, True], repeat=len(NAMES)):
        asked = list(compress(NAMES, chosen))
        table = pd.DataFrame({"audio": [audio] * len(asked), "device": pd.Series(asked, dtype=object)})
        if not asked:
            with pytest.raises(MlflowException, match="1 to 512 rows, got 0"):
                model.predict(None, table)
            continue
        response = model.predict(None, table)
        used = [NAMES[name] for name in asked]
        assert list(response.device_asked) == asked
        assert list(response.device_used) == used
        assert list(response.version_used) == [versions[device] for device in used]
        np.testing.assert_allclose(
            probabilities(response), [expected[device] for device in used], atol=ROUNDED
        )


def test_without_a_device_column_the_general_network_answers(model, noise, encoded):
    response = model.predict(None, pd.DataFrame({"audio": [encoded(noise(32000))]}))
    assert list(response.device_used) == ["unknown"]


def test_a_bundle_with_the_general_network_alone_answers_for_every_device(
    make_bundle, noise, encoded, versions
):
    table = pd.DataFrame({"audio": [encoded(noise(32000))] * 3, "device": ["a", "b", None]})
    response = loaded(make_bundle("unknown")).predict(None, table)
    assert list(response.version_used) == [versions["unknown"]] * 3


@pytest.mark.arithmetic
def test_a_mixed_request_answers_as_its_rows_one_by_one(model, noise, encoded, monkeypatch):
    monkeypatch.setattr(classify, "CLIPS_AT_ONCE", 4)  # So that a batch ends within a row's clips.
    devices = ["b", "a", None, "a", "s5", "b", ""]
    audio = [encoded(noise(8000 + 21000 * row, seed=row)) for row in range(len(devices))]
    table = pd.DataFrame({"audio": audio, "device": devices}, index=[7, 3, 1, 9, 2, 8, 0])
    together = model.predict(None, table)
    alone = pd.concat([model.predict(None, table.iloc[[row]]) for row in range(len(table))])
    exact = ["device_asked", "device_used", "version_used"]
    assert list(together.index) == list(table.index)
    pd.testing.assert_frame_equal(together[exact], alone[exact])
    np.testing.assert_allclose(probabilities(together), probabilities(alone), atol=ROUNDED)


@pytest.mark.arithmetic
def test_the_scene_is_the_most_probable_and_the_probabilities_sum_to_one(model, noise, encoded, scenes):
    response = model.predict(
        None, pd.DataFrame({"audio": [encoded(noise(32000, seed)) for seed in range(3)]})
    )
    values = probabilities(response)
    np.testing.assert_allclose(values.sum(axis=1), 1.0)
    assert list(response.scene) == [scenes[best] for best in values.argmax(axis=1)]
    np.testing.assert_array_equal(response.probability, values.max(axis=1))
    assert list(response.probabilities[0]) == scenes


def test_a_null_device_stays_null_in_json(model, noise, encoded):
    response = model.predict(None, pd.DataFrame({"audio": [encoded(noise(9000))] * 2, "device": ["a", None]}))
    assert json.loads(json.dumps(response.to_dict("records"), allow_nan=False))[1]["device_asked"] is None


@pytest.mark.arithmetic
def test_probabilities_are_averaged_over_the_clips_of_a_row(model, networks, noise, encoded):
    clips = noise(64000).reshape(2, 32000)
    response = model.predict(None, pd.DataFrame({"audio": [encoded(clips.ravel(), subtype="FLOAT")]}))
    expected = np.mean([directly(networks["unknown"], clip) for clip in clips], axis=0)
    np.testing.assert_allclose(probabilities(response)[0], expected, atol=ROUNDED)


def test_top_k_keeps_the_most_probable_scenes_the_best_first(model, noise, encoded):
    table = pd.DataFrame({"audio": [encoded(noise(RATE))]})
    (everything,), (some,) = (model.predict(None, table, {"top_k": top_k}).probabilities for top_k in (0, 3))
    assert list(some.items()) == sorted(everything.items(), key=lambda entry: -entry[1])[:3]


@pytest.mark.arithmetic
def test_every_second_of_a_row_can_be_answered(model, networks, noise, encoded):
    long, short = noise(3 * RATE), noise(RATE, 1)
    table = pd.DataFrame(
        {"audio": [encoded(long, subtype="FLOAT"), encoded(short, subtype="FLOAT")], "device": [None, "a"]},
        index=[5, 4],
    )
    response = model.predict(None, table, {"aggregate": "second"})
    assert list(response.index) == [5, 5, 5, 4]
    assert list(response.row) == [0, 0, 0, 1]
    assert list(response.second) == [0, 1, 2, 0]
    assert list(response.device_used) == ["unknown"] * 3 + ["a"]
    expected = [directly(networks["unknown"], clip) for clip in long.reshape(3, RATE)] + [
        directly(networks["a"], short)
    ]
    np.testing.assert_allclose(probabilities(response), expected, atol=ROUNDED)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"top_k": -1}, r"top_k should be a whole number from 0 \(all scenes\) to 10, got -1"),
        ({"top_k": 11}, "to 10, got 11"),
        ({"top_k": 2.5}, "got 2.5"),
        ({"top_k": True}, "got True"),
        ({"top_k": "3"}, "got '3'"),
        ({"aggregate": "minute"}, "aggregate should be 'file', 'second' or 'stream', got 'minute'"),
        ({"aggregate": ["file"]}, r"got \['file'\]"),
        ({"topk": 3}, "unknown parameter 'topk'; there are 'top_k', 'aggregate'"),
    ],
)
def test_a_wrong_parameter_is_refused(params, said, model, noise, encoded):
    with pytest.raises(MlflowException, match=said) as error:
        model.predict(None, pd.DataFrame({"audio": [encoded(noise(RATE))]}), params)
    assert error.value.get_http_status_code() == 400


def test_the_first_row_that_cannot_be_decoded_is_named(model, noise, encoded):
    good, bad = encoded(noise(8000)), encoded(np.full(8000, 100.0, dtype=np.float32), subtype="FLOAT")
    table = pd.DataFrame({"audio": [good, good, bad, good, bad], "device": ["b", "a", "unknown", "b", "a"]})
    with pytest.raises(MlflowException, match="row 2: audio has samples up to 100; full scale is 1"):
        model.predict(None, table)


def test_rows_go_to_the_workers_by_device_a_few_clips_at_a_time(model):
    asked = [("a", 1.0), ("b", 3.0), ("a", 60.0), (None, 0.3), ("a", 1.0), ("s4", 2.0)]
    rows = [
        requests.Row(number, device, BytesIO(), seconds) for number, (device, seconds) in enumerate(asked)
    ]
    chunks = list(classify.chunks_of(model.bundle, rows, workers=2))
    assert [[row.number for row in chunk] for chunk in chunks] == [[0], [2], [4], [1], [3, 5]]


def test_a_small_request_is_spread_over_the_workers(model):
    rows = [requests.Row(number, "a", BytesIO(), 1.0) for number in range(4)]
    assert [len(chunk) for chunk in classify.chunks_of(model.bundle, rows, workers=2)] == [2, 2]


def test_workers_compute_on_one_thread_each_and_leave_the_program_its_own():
    def threads_of_a_new_thread() -> int:
        found: list[int] = []
        thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        return found[0]

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with cores._workers_of(-1, 3) as pool:
            assert {task.result() for task in [pool.submit(torch.get_num_threads) for _ in range(20)]} == {1}
            assert (torch.get_num_threads(), threads_of_a_new_thread()) == (3, 3)
    finally:
        torch.set_num_threads(before)


@pytest.mark.arithmetic
def test_requests_at_the_same_time_are_answered_as_one_by_one(model, noise, encoded):
    tables = [
        pd.DataFrame({"audio": [encoded(noise(20000, seed))] * 3, "device": ["a", "b", None]})
        for seed in range(6)
    ]
    alone = [model.predict(None, table) for table in tables]
    together: dict[int, pd.DataFrame] = {}
    threads = [
        threading.Thread(target=lambda n=n: together.update({n: model.predict(None, tables[n])}))
        for n in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, expected in enumerate(alone):
        pd.testing.assert_frame_equal(together[number], expected)


@pytest.mark.parametrize(
    ("samples", "clips", "kept"),
    [
        (1, 1, 1),
        (9, 1, 9),
        (10, 1, 10),
        (14, 1, 10),
        (15, 2, 15),
        (20, 2, 20),
        (24, 2, 20),
        (25, 3, 25),
    ],
)
def test_a_tail_is_padded_from_half_a_clip_on_and_dropped_below(samples, clips, kept):
    waveform = np.arange(1, samples + 1, dtype=np.float32)
    cut = requests.cut_clips(waveform, clip_samples=10)
    assert cut.shape == (clips, 10)
    np.testing.assert_array_equal(cut.ravel()[:kept], waveform[:kept])
    assert not cut.ravel()[kept:].any()


@pytest.mark.parametrize(
    ("rate", "file_format"), [(44100, "WAV"), (48000, "FLAC"), (16000, "OGG"), (22050, "WAV"), (44100, "MP3")]
)
def test_audio_of_any_rate_and_format_is_read(rate, file_format, model, noise, encoded):
    response = model.predict(None, pd.DataFrame({"audio": [encoded(noise(rate), rate, file_format)]}))
    assert len(response) == 1


def test_base64_with_line_breaks_is_read(model, noise, encoded):
    text = encoded(noise(32000))
    broken = "\n".join(text[start : start + 76] for start in range(0, len(text), 76))
    whole, wrapped = model.predict(None, pd.DataFrame({"audio": [text, broken]})).probabilities
    assert whole == pytest.approx(wrapped, abs=ROUNDED)


@pytest.mark.parametrize(
    ("seconds", "limit", "said"),
    [
        (61, 100.0, "row 1: audio lasts 61.0 s by its header; at most 60 s"),
        (6, 10.0, "12.0 s of audio together"),
    ],
)
def test_audio_over_a_limit_is_refused_before_anything_is_decoded(
    seconds, limit, said, model, encoded, monkeypatch
):
    monkeypatch.setattr(
        requests, "decode", lambda *_, **__: pytest.fail("decoded audio that should have been refused")
    )
    monkeypatch.setattr(limits, "MAX_REQUEST_SECONDS", limit)
    silence = [encoded(np.zeros(8000 * length), 8000, "FLAC") for length in (6, seconds)]
    with pytest.raises(MlflowException, match=said):
        model.answer({"audio": silence}, None, stop=threading.Event())


@pytest.fixture
def joined_mp3(noise, encoded):
    """base64 of MP3 files joined to one, of which the first alone says how long it is."""
    return lambda *seconds: base64.b64encode(
        b"".join(base64.b64decode(encoded(noise(44100 * length), 44100, "MP3")) for length in seconds)
    ).decode()


def test_of_an_mp3_the_decoded_length_counts(model, joined_mp3):
    answer = model.predict(
        None, pd.DataFrame({"audio": [joined_mp3(2, 3), joined_mp3(4)]}), {"aggregate": "second"}
    )
    assert answer["row"].tolist() == [0] * 5 + [1] * 4


def test_an_mp3_that_is_longer_than_it_says_is_decoded_no_further_than_the_limit(
    model, joined_mp3, monkeypatch
):
    decoded = []
    original = requests.seconds_of
    monkeypatch.setattr(
        requests,
        "seconds_of",
        lambda *given, **named: decoded.append(original(*given, **named)) or decoded[-1],
    )
    monkeypatch.setattr(
        requests, "decode", lambda *_, **__: pytest.fail("decoded audio that should have been refused")
    )
    with pytest.raises(MlflowException, match="row 0: audio is longer than 60 s: cut it"):
        model.predict(None, pd.DataFrame({"audio": [joined_mp3(2, 120)]}))
    assert 60 < decoded[0] < 70
    monkeypatch.setattr(limits, "MAX_REQUEST_SECONDS", 10.0)
    many = {"audio": [joined_mp3(2, 6)] * 20}
    with pytest.raises(MlflowException, match=r"the rows hold 16\.0 s of audio together, more than 10 s"):
        model.answer(many, None, stop=threading.Event())
    assert len(decoded) == 3, "what comes behind is not looked at"


def test_joined_files_are_checked_one_by_one(encoded):
    first, second, third = (
        base64.b64decode(encoded(np.zeros(800), rate, "FLAC")) for rate in (8000, 8000, 384_000)
    )
    assert requests.checked_seconds(BytesIO(first + second), max_seconds=60) == pytest.approx(0.2)
    with pytest.raises(ValueError, match="384000 samples a second; at most 192000 are read"):
        requests.checked_seconds(BytesIO(first + third), max_seconds=60)


def test_a_flac_stream_without_a_length_is_refused(encoded):
    file = bytearray(requests.read_base64(encoded(np.zeros(8000), 8000, "FLAC")).getvalue())
    file[21] &= 0xF0  # The 36 bits of STREAMINFO that count the samples.
    file[22:26] = bytes(4)
    with pytest.raises(ValueError, match="does not say how long it is"):
        requests.checked_seconds(BytesIO(bytes(file)), max_seconds=60)


def test_nine_channels_or_an_absurd_rate_are_refused(encoded):
    for audio, said in (
        (encoded(np.zeros((8, 9))), "9 channels"),
        (encoded(np.zeros(8), 384_000), "384000 samples"),
    ):
        with pytest.raises(ValueError, match=said):
            requests.checked_seconds(requests.read_base64(audio), max_seconds=60)


def test_a_bundle_without_the_general_network_is_refused(make_bundle: Callable[..., Path]):
    with pytest.raises(BundleError, match=r"networks for \['a', 'b'\] but none for 'unknown'"):
        loaded(make_bundle("a", "b"))


def test_a_bundle_without_a_manifest_is_refused(tmp_path):
    with pytest.raises(BundleError, match=r"router\.json"):
        loaded(tmp_path)


def test_a_manifest_that_lacks_a_value_is_refused(make_bundle):
    bundle = make_bundle("unknown")
    manifest = json.loads((bundle / "router.json").read_text())
    del manifest["max_seconds"]
    (bundle / "router.json").write_text(json.dumps(manifest))
    write_sums(bundle)
    with pytest.raises(BundleError, match="max_seconds"):
        loaded(bundle)


def test_a_manifest_that_names_a_file_elsewhere_is_refused(make_bundle):
    bundle = make_bundle("unknown")
    manifest = json.loads((bundle / "router.json").read_text())
    manifest["models"]["unknown"]["file"] = "../bundle/unknown.pt2"
    (bundle / "router.json").write_text(json.dumps(manifest))
    write_sums(bundle)
    with pytest.raises(BundleError, match="should be the name of a file in the bundle"):
        loaded(bundle)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"scenes": ["park", "tram"]}, r"finite logits \(2, 2\), got \(2, 10\)"),
        ({"mel": {"bands": 32}}, "does not take the bundle's log-mel"),
        ({"sample_rate": 16000}, "made for 32000 Hz, the bundle for 16000"),
    ],
)
def test_a_bundle_whose_networks_do_not_fit_is_refused(changed, said, make_bundle):
    with pytest.raises(BundleError, match=said):
        loaded(make_bundle("unknown", **changed))
