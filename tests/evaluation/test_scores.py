import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score
from sklearn.metrics import log_loss as sklearn_log_loss

from adaptf.evaluation.scores import (
    absent_scenes,
    accuracy,
    confusion,
    log_loss,
    macro_accuracy,
    macro_accuracy_per_device,
    prediction_table,
    say_absent,
)

SCENES = ("bus", "park", "tram")


@pytest.fixture
def predictions():
    generator = np.random.default_rng(0)
    clips = pd.DataFrame(
        {
            "filename": [f"{row}.wav" for row in range(90)],
            "scene": generator.choice(SCENES, size=90, p=[0.6, 0.3, 0.1]),
            "device": generator.choice(["a", "b", "s4"], size=90),
            "location": "paris-1",
        }
    )
    return prediction_table(clips, generator.standard_normal((90, 3)).astype(np.float32), SCENES)


def test_predictions_keep_what_is_known_of_the_clip(predictions):
    assert list(predictions.columns) == ["filename", "scene", "device", "location", "predicted", *SCENES]


def test_macro_accuracy_is_the_mean_of_the_scenes_accuracies(predictions):
    assert macro_accuracy(predictions) == pytest.approx(
        balanced_accuracy_score(predictions["scene"], predictions["predicted"])
    )


def test_log_loss_weighs_all_scenes_alike(predictions):
    logits = predictions[list(SCENES)].to_numpy(np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    counts = predictions["scene"].value_counts()
    weights = 1 / counts[predictions["scene"]].to_numpy()
    expected = sklearn_log_loss(predictions["scene"], probabilities, labels=SCENES, sample_weight=weights)
    assert log_loss(predictions, SCENES) == pytest.approx(expected)


def test_device_accuracy_counts_the_clips_of_that_device_only(predictions):
    of_b = predictions[predictions["device"] == "b"]
    assert macro_accuracy_per_device(predictions)["b"] == pytest.approx(macro_accuracy(of_b))


def test_confusion_counts_every_clip_once_and_keeps_absent_scenes(predictions):
    matrix = confusion([predictions], (*SCENES, "metro"))
    assert matrix.to_numpy().sum() == 90
    assert matrix.loc["metro"].sum() == 0
    assert list(matrix.columns) == [*SCENES, "metro"]


def test_confusion_sums_the_runs(predictions):
    other = predictions.assign(predicted="bus")
    expected = confusion([predictions], SCENES) + confusion([other], SCENES)
    pd.testing.assert_frame_equal(confusion([predictions, other], SCENES), expected)


def test_the_score_is_the_mean_over_devices_or_that_of_all_clips_together(predictions):
    assert accuracy(predictions, "mean_over_devices") == pytest.approx(
        macro_accuracy_per_device(predictions).mean()
    )
    assert accuracy(predictions, "plain") == macro_accuracy(predictions)


def test_what_the_mean_of_a_device_leaves_out_is_said():
    table = pd.DataFrame({"device": ["a", "a", "b"], "scene": ["bus", "park", "park"]})
    assert absent_scenes(table, ["bus", "park"]) == {"b": ["bus"]}
    assert say_absent({"b": ["bus"], "c": ["bus", "park"]}) == (
        "Means leave out scenes of which a device has no clip: b (bus); c (bus, park)."
    )
    assert say_absent({}) == ""
