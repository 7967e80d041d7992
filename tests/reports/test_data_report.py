import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from adaptf.data.sets.findings import Finding
from adaptf.reports import data_figures
from adaptf.reports.data_figures import clips_figure, labels_figure, mosaic_figure
from adaptf.reports.data_report import DataReport, as_markdown, as_text, findings_table, make_report

RATE = 32000
LABELS = ("Speech", "Dog", "Music", "Zing")


def clip_table(*rows):
    """Clips of (scene, device, split), each of a city, a place and a sound of its own."""
    table = pd.DataFrame(rows, columns=["scene", "device", "split"])
    names = [f"{row:03}.wav" for row in range(len(table))]
    return table.assign(filename=names, key=names, location=names, city=["paris", "oslo"] * (len(table) // 2))


@pytest.fixture
def scenes():
    """Device b has no bus, device c is in the test only."""
    train = [("bus", "a", "train")] * 3 + [
        ("park", "a", "train"),
        ("park", "a", "train"),
        ("park", "b", "train"),
    ]
    return clip_table(*train, ("bus", "a", "test"), ("park", "c", "test"))


@pytest.fixture
def audioset():
    labels = ["0", "0 1", "0 2", "2", "0 1 2", ""]
    names = [f"{row}.wav" for row in range(6)]
    split = ["train"] * 4 + ["validation"] * 2
    return pd.DataFrame({"filename": names, "labels": labels, "split": split, "key": names})


def levels(table, **columns):
    usual = {"seconds": 1.0, "peak": 0.5, "rms": 0.1, "dc": 0.0, "clipped": 0.0}
    return pd.DataFrame(usual | columns, index=range(len(table)))


def report_of(table, **changes):
    settings = {"title": "8 clips of /data", "clip_seconds": 1.0}
    return make_report(table, levels(table), **settings | changes)


def many(name, count):
    return Finding(name, tuple(f"audio/{place}.wav" for place in range(count)), "why")


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved."""
    figures, save = [], data_figures.save
    monkeypatch.setattr(
        data_figures, "save", lambda figure, path: figures.append(figure) or save(figure, path)
    )
    return figures


@pytest.fixture
def read():
    """Clips of a tone that is louder the later the row; remembers the rows that were asked for."""

    def read_clips(rows):
        read_clips.rows = rows.tolist()
        tone = torch.sin(torch.arange(RATE // 4) * 0.3)
        return torch.from_numpy(0.01 * (1 + rows[:, None]).astype(np.float32)) * tone

    return read_clips


def images(figure):
    """Of each row of cells, which ones hold a picture."""
    rows = figure.axes[0].get_gridspec().nrows
    return np.array([bool(axis.images) for axis in figure.axes]).reshape(rows, -1).tolist()


def texts(figure):
    of_axes = [
        label.get_text() for axis in figure.axes for label in (axis.title, axis.xaxis.label, axis.yaxis.label)
    ]
    return of_axes + [text.get_text() for text in figure.texts]


def test_clips_are_counted_by_split_and_scene_device_and_city(scenes):
    counts = report_of(scenes).counts
    assert list(counts) == ["scene", "device", "city"]
    assert counts["scene"].to_dict("index") == {
        "bus": {"train": 3, "test": 1, "all": 4},
        "park": {"train": 3, "test": 1, "all": 4},
        "all": {"train": 6, "test": 2, "all": 8},
    }
    assert counts["device"].loc["c"].to_dict() == {"train": 0, "test": 1, "all": 1}
    assert list(counts["city"].index) == ["oslo", "paris", "all"]


def test_validation_clips_are_counted_by_scene_and_device_where_there_are_some(scenes):
    table = scenes.assign(
        split=["validation", "train", "train", "validation", "validation", "train", "test", "test"]
    )
    assert report_of(table).counts["validation clips"].to_dict("index") == {
        "bus": {"a": 1, "b": 0},
        "park": {"a": 2, "b": 0},
        "all": {"a": 3, "b": 0},
    }
    many = table.assign(device=[f"device {row}" for row in table.index], split="validation")
    assert "validation clips" in report_of(many).counts
    assert (
        "validation clips"
        not in report_of(pd.concat([many, many.assign(device=many["device"] + "x")])).counts
    )


def test_unknown_cities_are_counted_only_beside_known_ones(scenes):
    assert list(report_of(scenes.assign(city="")).counts) == ["scene", "device"]
    some = report_of(scenes.assign(city=scenes["city"].replace("oslo", ""))).counts["city"]
    assert list(some.index) == ["(unknown)", "paris", "all"]


def test_splits_stand_in_the_order_of_their_use(scenes):
    scenes.loc[:1, "split"] = "validation"
    assert list(report_of(scenes).counts["scene"].columns) == ["train", "validation", "test", "all"]


def test_hours_are_those_of_the_clips_whatever_was_cut_off_or_padded(scenes):
    report = make_report(
        scenes, levels(scenes, seconds=[60, 0.5, 1, 1, 1, 1, 1, 1]), title="", clip_seconds=1.0
    )
    assert report.hours == pytest.approx(7.5 / 3600)


def test_labels_are_counted_most_frequent_first_and_absent_ones_noted(audioset):
    report = report_of(audioset, class_names=LABELS, notes=["a note"])
    assert report.counts[""].to_dict("index") == {"clips": {"train": 4, "validation": 2, "all": 6}}
    assert report.counts["label"]["all"].to_dict() == {"Speech": 4, "Music": 3, "Dog": 2}
    assert report.notes == ("a note", "1 of 4 labels have no clip")


def test_of_many_labels_the_most_and_the_least_frequent_are_shown():
    labels = [str(label) for label in range(30) for _ in range(label)]
    names = [str(row) for row in range(len(labels))]
    table = pd.DataFrame({"filename": names, "labels": labels, "split": "train", "key": names})
    counts = report_of(table, class_names=[f"label {place}" for place in range(30)]).counts
    assert list(counts["most frequent label"].index) == [f"label {place}" for place in range(29, 19, -1)]
    assert list(counts["least frequent label"].index) == [f"label {place}" for place in range(1, 11)]


def test_text_as_the_terminal_shows_it(scenes):
    report = report_of(
        scenes, missing=["x.wav"], unreadable=["y.wav: the audio has no samples"], notes=["1 file cut in 2"]
    )
    assert as_text(report) == "\n".join(
        [
            "8 clips of /data, 0.1 minutes of audio",
            "",
            "scene train test all    device train test all    city  train test all",
            "bus       3    1   4    a          5    1   6    oslo      3    1   4",
            "park      3    1   4    b          1    0   1    paris     3    1   4",
            "all       6    2   8    c          0    1   1    all       6    2   8",
            "                        all        6    2   8",
            "",
            "1 file cut in 2",
            "",
            "missing: 1 (named by the data set's table, but there is no such file: left out)",
            "  x.wav",
            "unreadable: 1 (no clip could be read from these files: left out)",
            "  y.wav: the audio has no samples",
            "All names are in findings.csv.",
        ]
    )


def test_a_report_without_findings_says_so(scenes):
    assert as_text(report_of(scenes)).endswith("\n\nNothing odd was found.")
    assert as_markdown(report_of(scenes)).endswith("\n\nNothing odd was found.")


def test_long_audio_is_told_in_hours(scenes):
    report = dataclasses.replace(report_of(scenes), title="34900 clips of /data", hours=9.69)
    assert as_text(report).startswith("34900 clips of /data, 9.7 hours of audio\n")


def test_long_notes_are_wrapped(scenes):
    lines = as_text(report_of(scenes, notes=["many words " * 20])).splitlines()
    assert " ".join(lines).count("many words") == 20
    assert max(map(len, lines)) <= 128


def test_text_names_ten_clips_and_counts_the_others(scenes):
    report = dataclasses.replace(report_of(scenes), findings=(many("silent", 12),))
    lines = as_text(report).splitlines()
    assert lines[lines.index("silent: 12 (why)") + 1 :] == [
        *(f"  audio/{place}.wav" for place in range(10)),
        "  ... and 2 more",
        "All names are in findings.csv.",
    ]


def test_text_fits_the_terminal_whatever_the_names():
    rows = [
        (f"a scene of long name {place}", f"phone of brand {place} {'x' * 40}", "train")
        for place in range(60)
    ]
    report = report_of(clip_table(*rows))
    report = dataclasses.replace(
        report, findings=(Finding("duplicates", (" = ".join("abcdefghij" * 20),), "why"),)
    )
    lines = as_text(report).splitlines()
    assert max(map(len, lines)) == 128
    assert lines[43].split() == ["all", "60", "60", "all", "60", "60"]
    assert lines[44].split() == ["...", "and", "20", "more"] * 2


def test_markdown_is_short(scenes):
    report = dataclasses.replace(report_of(scenes), findings=(many("silent", 2000), many("short", 1)))
    assert as_markdown(report).startswith(
        "**8 clips of /data**, 0.1 minutes of audio\n\n"
        "| scene | train | test | all |\n"
        "|---|---:|---:|---:|\n"
        "| bus | 3 | 1 | 4 |\n"
        "| park | 3 | 1 | 4 |\n"
        "| all | 6 | 2 | 8 |\n\n"
        "| device | train | test | all |\n"
    )
    assert as_markdown(report).endswith(
        "- **silent: 2000** (why): `audio/0.wav`, `audio/1.wav`, `audio/2.wav`, ... and 1997 more\n"
        "- **short: 1** (why): `audio/0.wav`\n\n"
        "All names are in findings.csv."
    )


def test_markdown_of_a_large_data_set_fits_a_note_of_mlflow():
    rows = [(f"a scene {place:020}", f"a device {place:020}", "train") for place in range(200)]
    table = clip_table(*rows).assign(city=[f"a city {place:020}" for place in range(200)])
    found = tuple(many(f"finding {place}", 500) for place in range(9))
    assert len(as_markdown(dataclasses.replace(report_of(table), findings=found))) < 8000


def test_findings_table_has_every_name():
    report = DataReport(
        "", {}, 0.0, findings=(many("silent", 30),), missing=("x.wav",), unreadable=("y.wav: why",)
    )
    table = findings_table(report)
    assert list(table.columns) == ["finding", "filename"]
    assert len(table) == 32
    assert table.iloc[29:].to_numpy().tolist() == [
        ["silent", "audio/29.wav"],
        ["missing", "x.wav"],
        ["unreadable", "y.wav: why"],
    ]
    assert list(findings_table(DataReport("", {}, 0.0)).columns) == ["finding", "filename"]


def test_counts_figure_has_a_panel_per_split_with_the_number_in_every_cell(scenes, drawn, tmp_path):
    assert clips_figure(scenes, tmp_path / "clips.png").stat().st_size > 1000
    train, test = drawn[0].axes
    assert [train.get_title(), test.get_title()] == ["train: 6 clips", "test: 2 clips"]
    assert [text.get_text() for text in train.texts] == ["3", "0", "2", "1"]
    assert [label.get_text() for label in test.get_xticklabels()] == ["a", "c"]


@pytest.mark.parametrize(
    ("scenes", "devices", "counts", "of_counts", "mosaic", "of_mosaic"),
    [
        (
            41,
            2,
            (40, 2),
            "1 scene with fewer clips is not shown",
            (16, 2),
            "25 scenes with fewer clips are not shown",
        ),
        (
            2,
            21,
            (2, 20),
            "1 device with fewer clips is not shown",
            (2, 12),
            "9 devices with fewer clips are not shown",
        ),
    ],
)
def test_figures_say_how_many_scenes_and_devices_are_left_out(
    scenes, devices, counts, of_counts, mosaic, of_mosaic, drawn, read, tmp_path
):
    rows = [
        (f"scene {scene:02}", f"device {device:02}", "train")
        for scene in range(scenes)
        for device in range(devices)
    ]
    table = clip_table(*rows)
    clips_figure(table, tmp_path / "clips.png")
    mosaic_figure(table, read, tmp_path / "mosaic.png", sample_rate=RATE)
    assert drawn[0].axes[0].images[0].get_array().shape == counts
    assert drawn[0].get_supxlabel() == of_counts
    assert np.shape(images(drawn[1])) == mosaic
    assert texts(drawn[1])[-1] == f"Log-mel of one clip per scene and device\n{of_mosaic}"


def test_left_out_scenes_and_devices_are_those_of_the_fewest_clips(drawn, monkeypatch, scenes, tmp_path):
    monkeypatch.setattr(data_figures, "COUNT_SCENES", 1)
    monkeypatch.setattr(data_figures, "COUNT_DEVICES", 1)
    clips_figure(pd.concat([scenes, scenes.query("scene == 'park'")]), tmp_path / "clips.png")
    assert [label.get_text() for label in drawn[0].axes[0].get_yticklabels()] == ["park"]
    assert drawn[0].get_supxlabel() == "1 scene and 2 devices with fewer clips are not shown"


def test_mosaic_shows_the_first_clip_of_each_scene_and_device_and_leaves_the_others_blank(
    scenes, drawn, read, tmp_path
):
    shuffled = scenes.iloc[[7, 6, 5, 4, 3, 2, 1, 0]]
    assert mosaic_figure(shuffled, read, tmp_path / "mosaic.png", sample_rate=RATE).is_file()
    assert images(drawn[0]) == [[True, False, False], [True, True, True]]
    assert list(shuffled["filename"].iloc[read.rows]) == ["000.wav", "003.wav", "005.wav", "007.wav"]
    assert {"bus", "park", "a", "b", "c", "Log-mel of one clip per scene and device"} <= set(texts(drawn[0]))
    corner = drawn[0].axes[5]
    assert [label.get_text() for label in corner.get_yticklabels()] == ["0.5 kHz", "2 kHz", "8 kHz"]
    assert [label.get_text() for label in corner.get_xticklabels()] == ["0", "0.25 s"]


def test_mosaic_has_one_scale_of_colours(scenes, drawn, read, tmp_path):
    mosaic_figure(scenes, read, tmp_path / "mosaic.png", sample_rate=RATE)
    assert len({image.get_clim() for axis in drawn[0].axes for image in axis.images}) == 1


def test_names_with_a_dollar_or_without_end_are_drawn(scenes, drawn, tmp_path):
    clips_figure(scenes.replace({"a": "phone of $1 or $2", "park": "p" * 99}), tmp_path / "clips.png")
    axis = drawn[0].axes[0]
    assert axis.get_xticklabels()[1].get_text() == r"phone of \$1 or \$2"
    assert axis.get_yticklabels()[1].get_text() == "p" * 31 + "…"


def test_bars_of_labels_say_how_many_labels_have_few_clips(audioset, drawn, tmp_path):
    assert labels_figure(audioset, tmp_path / "labels.png", class_names=LABELS).is_file()
    axis = drawn[0].axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["Speech", "Music", "Dog"]
    assert [bar.get_width() for bar in axis.patches] == [4, 3, 2]
    assert axis.get_xlabel() == "clips; 4 of 4 labels have fewer than 10"
