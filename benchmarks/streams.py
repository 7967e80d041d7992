"""What a stream gains over its seconds: recordings of the test clips, by a calibration of validation clips.

MLFLOW_TRACKING_URI=sqlite:///mlflow.db python benchmarks/streams.py --quantize_run=ID --evaluate_run=ID
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from adaptf.data.parquet import read_table
from adaptf.evaluation.bootstrap import paired_bootstrap
from adaptf.evaluation.calibration import calibration_error, reliability_table
from adaptf.evaluation.forward_filter import StreamCalibration
from adaptf.evaluation.scores import TEXT_COLUMNS, macro_accuracy, places_of
from adaptf.evaluation.stream_calibration import calibrate_stream, filtered, seconds_of_recordings
from adaptf.pipeline.artifacts import TABLES_FOLDER, VALIDATION_PREDICTIONS
from adaptf.pipeline.validation import read_by_own_models
from adaptf.tracking import stage_run

SECONDS = 10
AFTER = (1, 2, 5, 10)
LASTS, STAYS = (30, 60, 300), (30, 120, 600)
STREAMS, STREAM_SECONDS = 300, 600
Found = NDArray[np.float64]


def main() -> None:
    """Prints the calibration, a table of recordings, and one of streams that change their scene."""
    validation, test = read_predictions()
    scenes = [column for column in test.columns if column not in TEXT_COLUMNS]
    calibration = calibrate_stream(validation, scenes)
    print(f"{len(validation)} validation clips: {calibration}")
    test = whole_recordings(test)
    print(f"{len(test)} test clips of {places_of(test).nunique()} places, macro average of single seconds: "
          f"{macro_accuracy(test):.1%}")  # fmt: skip
    logits = test[scenes].to_numpy(np.float64).reshape(-1, SECONDS, len(scenes))
    independent = StreamCalibration(calibration.factor, 0.0, calibration.threshold)
    for name, one in (("independent seconds", independent), ("dependence found", calibration)):
        print_recordings(name, test, filtered(logits, one), scenes, one.threshold)
    print_changes(test, logits, scenes, {"independent": independent, "found": calibration})


def read_predictions() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Of validation and test clips, each by the INT8 model of its device."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quantize_run", required=True)
    parser.add_argument("--evaluate_run", required=True)
    given = parser.parse_args()
    with TemporaryDirectory() as folder:
        left = stage_run.download(given.quantize_run, VALIDATION_PREDICTIONS, Path(folder))
        validation = read_by_own_models(left)
        tables = stage_run.download(given.evaluate_run, TABLES_FOLDER, Path(folder))
        return validation, read_table(tables / "predictions per device INT8.parquet")


def whole_recordings(test: pd.DataFrame) -> pd.DataFrame:
    """The clips of recordings that have all of their seconds, in order."""
    test = test.join(seconds_of_recordings(test["filename"]))
    test = test[test.groupby("recording")["second"].transform("size") == SECONDS]
    return test.sort_values(["recording", "second"]).drop(columns=["recording", "second"])


def print_recordings(
    name: str, test: pd.DataFrame, found: Found, scenes: list[str], threshold: float
) -> None:
    """A row per number of seconds; the difference is to single seconds, its interval over places."""
    truth = test["scene"].to_numpy().reshape(-1, SECONDS)[:, 0]
    print(f"\n{name}\n{'after':>6}{'accuracy':>10}{'difference':>24}{'confidence':>12}{'error of it':>19}"
          f"{'log loss':>10}{'answered':>10}{'right':>7}")  # fmt: skip
    for seconds in AFTER:
        after = found[:, seconds - 1]
        said = np.array(scenes)[after.argmax(axis=1)]
        stream = test.assign(predicted=said.repeat(SECONDS))
        gain = paired_bootstrap([test], [stream])
        sure, right = after.max(axis=1), said == truth
        error = calibration_error(reliability_table(sure, right))
        loss = -np.log(after[np.arange(len(truth)), [scenes.index(scene) for scene in truth]]).mean()
        answered = sure >= threshold
        interval = f"{100 * gain.mean:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"
        print(f"{seconds:>4} s{macro_accuracy(stream):>10.1%}{interval:>24}{sure.mean():>12.1%}{error:>19.1%}"
              f"{loss:>10.2f}{answered.mean():>10.1%}{right[answered].mean():>7.1%}")  # fmt: skip


def print_changes(
    test: pd.DataFrame, logits: Found, scenes: list[str], calibrations: dict[str, StreamCalibration]
) -> None:
    """Recordings of one device and place after another's, by how long each place lasts: the accuracy of all
    seconds and their log loss, by the stay that the filter is told."""
    heads = [f"{f'{name}, stay {stay} s':>24}" for name in calibrations for stay in STAYS]
    print(f"\n{STREAMS} streams of {STREAM_SECONDS} s: accuracy, log loss")
    print(f"{'place lasts':<14}{'seconds':>9}{''.join(heads)}")
    for lasts in LASTS:
        rows, truth = changing(test.iloc[::SECONDS], scenes, lasts)
        heard = logits[rows].reshape(STREAMS, -1, len(scenes))
        told = f"{f'{lasts} s':<14}{(heard.argmax(axis=2) == truth).mean():>9.1%}"
        for calibration in calibrations.values():
            for stay in STAYS:
                found = filtered(heard, calibration, stay_seconds=stay)
                loss = -np.log(np.take_along_axis(found, truth[:, :, None], axis=2)).mean()
                told += f"{(found.argmax(axis=2) == truth).mean():>17.1%}, {loss:>5.2f}"
        print(told)


def changing(recordings: pd.DataFrame, scenes: list[str], lasts: int) -> tuple[NDArray, NDArray]:
    """(streams, recordings) rows and (streams, seconds) scenes; a place's recordings come again where it has
    too few."""
    generator = np.random.default_rng(0)
    recordings = recordings.reset_index(drop=True).assign(place=places_of(recordings).to_numpy())
    groups = recordings.groupby(["device", "place", "scene"]).indices
    by_device: dict[str, list[tuple[str, str, str]]] = {}
    for key in groups:
        by_device.setdefault(key[0], []).append(key)
    rows = []
    for _ in range(STREAMS):
        places, stream, before = by_device[generator.choice(list(by_device))], [], ""
        while len(stream) * SECONDS < STREAM_SECONDS:
            key = places[generator.integers(len(places))]
            if key[2] != before:
                stream += list(np.resize(generator.permutation(groups[key]), lasts // SECONDS))
                before = key[2]
        rows.append(stream)
    truth = recordings["scene"].map(scenes.index).to_numpy()
    return np.array(rows), truth[np.array(rows)].repeat(SECONDS, axis=1)


if __name__ == "__main__":
    main()
