import re
from pathlib import Path

import pandas as pd
import pytest

from adaptf.data.clips import check_parts, gaps
from adaptf.data.errors import DataError
from adaptf.data.sets import read_clips as kinds
from adaptf.data.sets.read_clips import DataSet, read_clips, without_rules
from adaptf.models.students.tfsepnet.public_checkpoint import CLASSES as TAU_SCENES


def read(root, **changes):
    """What the tables of a folder or of a CSV file say."""
    settings = {"scenes": TAU_SCENES, "validation_share": 0.3, "test_share": 0.2, "seed": 0} | changes
    return read_clips(root, **settings)


def table_of(root, **changes):
    return read(root, **changes).table


def write_csv(folder, text):
    (folder / "clips.csv").write_text(text)
    return folder / "clips.csv"


def edit(path, change, separator="\t"):
    table = pd.read_csv(path, sep=separator, dtype=str)
    change(table).to_csv(path, sep=separator, index=False)


def test_tau_folder_gives_scene_device_location_and_split(tau):
    table = table_of(tau)
    assert list(table.columns) == ["filename", "scene", "device", "location", "city", "split"]
    assert len(table) == 36
    assert table["split"].value_counts()["test"] == 12
    assert set(table["device"]) == {"a", "b", "c"}
    assert set(table["city"]) == {"paris"}


def test_scenes_are_those_asked_for_or_those_of_the_data(tau):
    assert read(tau).scenes == TAU_SCENES
    assert read(tau, scenes=["bus", "airport"]).scenes == ("bus", "airport")
    assert read(tau, scenes=()).scenes == ("airport", "bus")


def test_clips_of_a_tau_folder_have_one_length_and_own_data_any(tau, tmp_path):
    assert not read(tau).any_length
    path = write_csv(tmp_path, "filename,scene,device\nx.wav,bus,phone\ny.wav,park,phone\n")
    assert read(path, scenes=()).any_length


@pytest.mark.parametrize("scenes", [(), ("bus",)])
def test_a_single_scene_is_refused(tmp_path, scenes):
    path = write_csv(tmp_path, "filename,scene,device\nx.wav,bus,phone\n")
    with pytest.raises(
        DataError, match=r"clips\.csv has the scene bus alone: a classifier needs two or more"
    ):
        read(path, scenes=scenes)


def test_no_location_is_on_two_sides(tau):
    for seed in range(20):
        sides = table_of(tau, seed=seed).groupby("location")["split"].nunique()
        assert (sides == 1).all()


def test_each_scene_has_training_and_validation_clips(tau):
    counts = table_of(tau).groupby(["scene", "split"]).size()
    for scene in ("airport", "bus"):
        assert counts[scene, "train"] == 9
        assert counts[scene, "validation"] == 3


def test_validation_is_cut_from_training_clips_only(tau):
    before = set(table_of(tau, validation_share=0.0).query("split == 'test'")["filename"])
    after = set(table_of(tau, validation_share=0.5).query("split == 'test'")["filename"])
    assert before == after


def test_scenes_of_one_location_are_cut_by_file_and_a_note_says_so(tau):
    edit(tau / "meta.csv", lambda table: table.assign(identifier=table["scene_label"]))
    clips = read(tau)
    assert clips.cut_by_file == {"airport", "bus"}
    assert (
        "Too few places to cut the validation part by location: whole files were cut out of airport, bus"
        in clips.notes[-1]
    )
    assert clips.table.groupby(["scene", "split"]).size().unstack()["validation"].tolist() == [3, 3]


def own_data(folder, places, *, files=5):
    """As the own-recordings example of README and docs: a table of scenes, places and files."""
    rows = [
        (f"{place}/{number:03d}.wav", scene, ["phone", "recorder"][number % 2], place)
        for scene, of_scene in places.items()
        for place in of_scene
        for number in range(files)
    ]
    pd.DataFrame(rows, columns=["filename", "scene", "device", "location"]).to_csv(
        folder / "clips.csv", index=False
    )
    return folder / "clips.csv"


@pytest.mark.parametrize("seed", range(3))
def test_of_two_places_a_scene_one_is_tested_and_files_of_the_other_validate(tmp_path, seed):
    places = {
        "public_square": ["market", "townhall"],
        "metro_station": ["station", "north"],
        "park": ["lake", "garden"],
    }
    clips = read(own_data(tmp_path, places), scenes=(), seed=seed)
    counts = clips.table.groupby(["scene", "split"]).size().unstack()
    assert (counts > 0).all(axis=None) and (counts["test"] == 5).all()
    tested = set(clips.table.query("split == 'test'")["location"])
    assert not tested & set(clips.table.query("split != 'test'")["location"])
    assert clips.cut_by_file == {"public_square", "metro_station", "park"}
    (note,) = clips.notes
    assert (
        "the validation part by location: whole files were cut out of metro_station, park, public_square"
        in note
    )
    assert "scores on the validation clips come out too good" in note.lower() and "a column 'split'" in note


def test_of_one_place_a_scene_files_are_tested_too_and_a_note_for_each_part_says_so(tmp_path):
    clips = read(own_data(tmp_path, {"park": ["lake"], "bus": ["line 1"]}), scenes=())
    assert (clips.table.groupby(["scene", "split"]).size().unstack() > 0).all(axis=None)
    assert [
        part in note for part, note in zip(["test part", "validation part"], clips.notes, strict=True)
    ] == [True, True]


def test_three_places_a_scene_are_enough(tmp_path):
    clips = read(
        own_data(tmp_path, {"park": ["lake", "wood", "hill"], "bus": ["line 1", "line 2", "line 3"]}),
        scenes=(),
    )
    assert clips.cut_by_file == frozenset() and clips.notes == ()
    assert (clips.table.groupby(["scene", "split"]).size().unstack() == 5).all(axis=None)


@pytest.mark.parametrize("seed", range(10))
def test_scenes_that_share_places_keep_some_for_training(tmp_path, seed):
    places = {
        "quiet": ["home", "office", "train"],
        "talking": ["home", "office"],
        "music": ["office", "train"],
    }
    rows = [
        (f"{scene}-{place}-{k}.wav", scene, "a", place)
        for scene, at in places.items()
        for place in at
        for k in range(4)
    ]
    pd.DataFrame(rows, columns=["filename", "scene", "device", "location"]).to_csv(
        tmp_path / "clips.csv", index=False
    )
    table = table_of(tmp_path / "clips.csv", scenes=(), seed=seed, test_share=0.4)
    assert set(table.query("split == 'train'")["scene"]) == set(places)


def test_files_of_unknown_location_are_places_of_their_own(tmp_path, caplog):
    rows = [f"{number}.wav,{['bus', 'park'][number % 2]},a,{'hall' * (number < 4)}" for number in range(12)]
    path = write_csv(tmp_path, "\n".join(["filename,scene,device,location", *rows]))
    table = table_of(path, scenes=())
    assert "has no location in 8 of 12 rows: each file counts as a place of its own" in caplog.text
    assert list(table["location"])[3:6] == ["hall", "4.wav", "5.wav"]


def test_clips_that_cannot_be_trained_on_are_refused_with_ways_out(tmp_path):
    table = table_of(own_data(tmp_path, {"park": ["lake"], "bus": ["line 1"]}, files=2), scenes=())
    with pytest.raises(
        DataError, match=r"no validation clips, by which training chooses .* three files or more .* 'split'"
    ):
        check_parts(table, source="mine")
    with pytest.raises(
        DataError, match=r"1 problem in the splits of mine:\s+scene bus has no training clips"
    ):
        check_parts(table.assign(split=["validation", "train", "test", "test"]), source="mine")
    check_parts(table.assign(split=["validation", "train", "test", "train"]), source="mine")


def test_what_a_part_lacks_is_told(tmp_path):
    table = table_of(own_data(tmp_path, {"park": ["lake"], "bus": ["line 1"]}, files=2), scenes=())
    assert gaps(table.assign(split=["validation", "train", "train", "train"]), ["park", "bus"]) == [
        "There are no validation clips of bus",
        "There are no test clips: evaluate and main need some (data.test_share or a column split)",
        "There are no train clips of the devices phone (park)",
        "There are no validation clips of the devices recorder (park)",
    ]
    assert gaps(table.assign(split=["validation", "train", "train", "test"]), ["park", "bus", "tram"])[0] == (
        "There are no train clips of tram"
    )


def test_unknown_city_and_device_are_data(tau):
    edit(
        tau / "meta.csv",
        lambda table: table.assign(source_label=table["source_label"].replace("b", "my phone")),
    )
    assert "my phone" in set(table_of(tau)["device"])


def test_unknown_scene_is_an_error_that_names_the_row(tau):
    edit(
        tau / "meta.csv", lambda table: table.assign(scene_label=table["scene_label"].replace("bus", "buss"))
    )
    with pytest.raises(
        DataError,
        match=r"row 20, audio/bus-paris-0-0-0-a\.wav \(scene 'buss', .*: the scene should be one of air",
    ):
        read(tau)


def test_a_device_that_no_registered_model_can_be_named_after_is_an_error(tau):
    edit(
        tau / "meta.csv",
        lambda table: table.assign(source_label=table["source_label"].replace("b", "mic\x07")),
    )
    with pytest.raises(DataError, match=r"device 'mic\\x07'\): device names must not hold signs that can't"):
        read(tau)


@pytest.mark.parametrize(
    ("device", "fault"),
    [
        ("\x1b[1m", "must not hold signs that can't be seen"),
        ("x" * 201, "must not exceed 200 bytes"),
        ("+" * 29, "must not exceed 200 bytes"),
        ("Phone", "must differ by more than capitals from 'unknown' and each other"),
        ("Unknown", "must differ by more than capitals from 'unknown' and each other"),
        ("Router", "these words stand for something else"),
        ("known devices", "these words stand for something else"),
    ],
)
def test_a_device_that_would_be_lost_after_all_training_is_refused_with_its_row(tmp_path, device, fault):
    path = write_csv(tmp_path, f'filename,scene,device\nx.wav,bus,phone\ny.wav,park,"{device}"\n')
    with pytest.raises(DataError, match=rf"row 3, y\.wav .*: .*{fault}"):
        read(path, scenes=())


@pytest.mark.parametrize("scene", ["device", "predicted", "macro average"])
def test_a_scene_that_a_table_calls_something_else_is_refused_with_its_row(tmp_path, scene):
    path = write_csv(tmp_path, f"filename,scene,device\nx.wav,bus,phone\ny.wav,{scene},phone\n")
    with pytest.raises(DataError, match=r"row 3, y\.wav .*: no scene can be called filename, scene, "):
        read(path, scenes=())


def test_each_such_device_is_named_once(tmp_path):
    rows = [
        f"{number}.wav,{['bus', 'park'][number % 2]},{['router', 'all'][number // 10]}"
        for number in range(20)
    ]
    with pytest.raises(
        DataError, match=r"(?s)2 problems .*row 2, 0\.wav .*'router'.*row 12, 10\.wav .*'all'"
    ):
        read(write_csv(tmp_path, "\n".join(["filename,scene,device", *rows])), scenes=())


@pytest.mark.parametrize("device", ["router", "all", "none"])
def test_a_device_whose_name_stages_take_for_something_else_is_refused(tmp_path, device):
    path = write_csv(tmp_path, f"filename,scene,device\nx.wav,bus,{device}\ny.wav,park,phone\n")
    with pytest.raises(DataError, match=r"row 2, x\.wav .*: no device can be called all, none, router"):
        read(path, scenes=())


@pytest.mark.parametrize(
    "device",
    [
        "a",
        "my phone",
        "Ger\u00e4t",
        "-x_1",
        "unknown",
        "mic/1:2",
        "rec.1",
        "Zoom H4n+",
        "o'brien",
        "a,b",
        "50%",
        "..",
        "\U0001f3a4",
    ],
)
def test_names_of_all_that_can_be_seen_are_devices(tmp_path, device):
    path = write_csv(tmp_path, f'filename,scene,device\nx.wav,bus,"{device}"\ny.wav,park,phone\n')
    assert device in set(table_of(path, scenes=())["device"])


def test_two_rows_for_one_file_are_an_error(tau):
    edit(tau / "meta.csv", lambda table: pd.concat([table, table.iloc[[3]]]))
    with pytest.raises(
        DataError, match=r"row 38, audio/airport-paris-1-1-0-a\.wav .*: a row above names this file too"
    ):
        read(tau)


def test_a_file_in_training_and_test_list_is_an_error(tau):
    test = pd.read_csv(tau / "evaluation_setup/fold1_evaluate.csv", sep="\t")
    edit(tau / "evaluation_setup/fold1_train.csv", lambda table: pd.concat([table, test.iloc[[0]]]))
    with pytest.raises(
        DataError, match=r"airport-paris-4-4-0-a\.wav is in evaluation_setup/fold1_train\.csv and in"
    ):
        read(tau)


def test_a_listed_file_without_meta_is_an_error(tau):
    edit(tau / "meta.csv", lambda table: table.iloc[1:])
    with pytest.raises(
        DataError, match=r"airport-paris-0-0-0-a\.wav is in a split list but not in meta\.csv"
    ):
        read(tau)


def test_a_missing_column_is_named_with_those_that_are_there(tau):
    edit(tau / "meta.csv", lambda table: table.rename(columns={"identifier": "place"}))
    with pytest.raises(
        DataError, match="lacks the column identifier; it has filename, scene_label, place, source_label"
    ):
        read(tau)


def test_a_folder_of_something_else_is_an_error(tmp_path):
    with pytest.raises(DataError, match="neither a TAU 2022 folder"):
        read(tmp_path)


def test_ten_problems_are_listed_and_the_others_counted(tau):
    edit(tau / "meta.csv", lambda table: table.assign(scene_label="moon"))
    with pytest.raises(DataError, match=r"(?s)36 problems in .*and 26 more"):
        read(tau)


def test_own_csv_without_split_is_cut_by_location(tmp_path):
    rows = [
        (f"{place}-{clip}.wav", "bus", "phone", f"place {place}") for place in range(10) for clip in range(4)
    ]
    pd.DataFrame(rows, columns=["filename", "scene", "device", "location"]).to_csv(
        tmp_path / "clips.csv", index=False
    )
    table = table_of(tmp_path / "clips.csv")
    assert set(table["split"]) == {"train", "validation", "test"}
    assert (table.groupby("location")["split"].nunique() == 1).all()


def test_own_csv_with_a_split_is_taken_as_it_is(tmp_path):
    rows = ["x.wav,bus,phone,train", "y.wav,park,phone,validation", "z.wav,bus,phone,test"]
    path = write_csv(tmp_path, "\n".join(["filename,scene,device,split", *rows]))
    assert list(table_of(path)["split"]) == ["train", "validation", "test"]


def test_own_csv_may_name_cities_and_more(tmp_path):
    path = write_csv(
        tmp_path,
        "city,note,scene,device,filename\nOslo,NA,bus,phone,x.wav\n,,null,phone,1e5\nnan,,bus,phone,007\n",
    )
    table = table_of(path, scenes=())
    assert list(table["city"]) == ["Oslo", "", "nan"]
    assert list(table["filename"]) == ["x.wav", "1e5", "007"]
    assert read(path, scenes=()).scenes == ("bus", "null")


def test_own_csv_with_a_wrong_split_is_an_error(tmp_path):
    path = write_csv(tmp_path, "filename,scene,device,split\nx.wav,bus,phone,tset\n")
    with pytest.raises(
        DataError, match=r"row 2, x\.wav: split 'tset' should be one of train, validation, test"
    ):
        read(path)


@pytest.mark.parametrize("row", [",bus,phone", "x.wav,,phone", "x.wav,bus,", "x.wav,bus"])
def test_own_csv_without_a_value_is_an_error(tmp_path, row):
    path = write_csv(tmp_path, f"filename,scene,device\ny.wav,park,phone\n{row}\n")
    with pytest.raises(DataError, match=r"row 3, .*: filename, scene and device must not be empty"):
        read(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not readable as a comma separated table"),
        ("\n\n", "not readable as a comma separated table"),
        ("filename,scene,device\n", "no clips"),
        (
            "filename,scene,device\nx.wav,bus,phone,\n",
            "not readable as .* Expected 3 fields in line 2, saw 4",
        ),
        (
            "filename,scene,device\nx.wav,bus,phone\ny.wav,park,phone,a,b\n",
            "Expected 3 fields in line 3, saw 5",
        ),
        (
            "filename,scene,device, scene\nx.wav,bus,phone,park\n",
            "has the column scene twice: leave one of them",
        ),
        (
            "filename|scene|device\nx.wav|bus|phone\n",
            r"lacks the columns filename, scene, device; it has filename\|scene",
        ),
        (
            'filename,scene,device\n"x.wav,bus,phone\ny.wav,park,phone\n',
            "not readable as .* EOF inside string",
        ),
    ],
)
def test_a_table_that_is_none_is_an_error(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read(write_csv(tmp_path, text), scenes=())


def test_trailing_commas_of_a_spreadsheet_are_no_columns(tmp_path):
    path = write_csv(tmp_path, "filename,scene,device,,\nx.wav,bus,phone,,\ny.wav,park,phone,,\n")
    assert list(table_of(path)["filename"]) == ["x.wav", "y.wav"]


def test_tables_of_other_editors_are_read(tmp_path):
    text = "filename,scene,device\nx.wav,bus,Gerät\ny.wav,park,phone\n"
    for content in (text.encode("utf-8-sig"), text.replace("\n", "\r\n").encode()):
        (tmp_path / "clips.csv").write_bytes(content)
        assert list(table_of(tmp_path / "clips.csv")["device"]) == ["Gerät", "phone"]
    (tmp_path / "clips.csv").write_bytes(text.encode("utf-16"))
    with pytest.raises(DataError, match="'utf-8' codec can't decode"):
        read(tmp_path / "clips.csv")


ONE_PARK = (
    "filename,scene,device\nx.wav,bus,phone\ny.wav, park ,phone\nz.wav,park,\u00a0phone\n",
    'filename,scene,device\nx.wav,bus,phone\n y.wav, "park", phone\n"z.wav" ,"park" ,"phone"\n',
    "\ufeff\ufefffilename , "
    "scene,device\r\nx.wav,bus,phone\r\ny.wav,\u200bpark,pho\u00adne\r\nz.wav,park\ufeff,phone\r\n",
    "filename;scene;device\nx.wav;bus;phone\ny.wav;park;phone\nz.wav;park;phone\n;;\n",
    "filename\tscene\tdevice\nx.wav\tbus\tphone\ny.wav\tpark\tphone\nz.wav\tpark\tphone\n",
    "filename,scene,device\n./x.wav,bus,phone\n.\\y.wav,park,phone\n.//z.wav/,park,phone\n\n,,\n",
)


@pytest.mark.parametrize("text", ONE_PARK)
def test_what_looks_the_same_is_the_same(tmp_path, text):
    (tmp_path / "clips.csv").write_bytes(text.encode())
    table = table_of(tmp_path / "clips.csv", scenes=(), validation_share=0, test_share=0)
    assert table[["filename", "scene", "device"]].to_numpy().tolist() == [
        ["x.wav", "bus", "phone"],
        ["y.wav", "park", "phone"],
        ["z.wav", "park", "phone"],
    ]


def test_composed_and_decomposed_accents_are_one_place_and_one_device(tmp_path):
    text = (
        "filename,scene,device,location\nx.wav,bus,Ger\u00e4t,Z\u00fcrich\n"
        "y.wav,park,Gera\u0308t,Zu\u0308rich\n"
    )
    table = table_of(write_csv(tmp_path, text), scenes=(), validation_share=0, test_share=0)
    assert set(table["device"]) == {"Ger\u00e4t"}
    assert set(table["location"]) == {"Z\u00fcrich"}


def test_blanks_around_the_cells_of_tau_change_nothing(tau):
    before = table_of(tau)
    for name in ("meta.csv", "evaluation_setup/fold1_train.csv", "evaluation_setup/fold1_evaluate.csv"):
        edit(tau / name, lambda table: table.map(lambda cell: f" {cell}\u00a0"))
    pd.testing.assert_frame_equal(table_of(tau), before)


def test_a_binary_file_is_no_csv(tmp_path):
    (tmp_path / "clips.csv").write_bytes(bytes(range(256)) * 9)
    with pytest.raises(DataError, match="not readable as a comma separated table"):
        read(tmp_path / "clips.csv")


def test_row_numbers_are_those_of_the_table_also_where_it_has_clips_of_no_list(tau):
    edit(tau / "evaluation_setup/fold1_train.csv", lambda table: table.iloc[6:])
    edit(
        tau / "meta.csv",
        lambda table: table.assign(source_label=table["source_label"].mask(table.index == 20, "all")),
    )
    with pytest.raises(
        DataError, match=r"row 22, audio/.* \(scene 'bus', device 'all'\): no device can be called all"
    ):
        read(tau)


def test_a_data_set_is_one_module_and_one_line(tmp_path, monkeypatch):
    docs = (Path(__file__).parents[3] / "docs" / "architecture.md").read_text()
    (code,) = re.findall(r'```python\n("""Cityscapes:.*?)```', docs, flags=re.DOTALL)
    exec(code, module := {})
    added = DataSet("a Cityscapes folder", module["is_cityscapes"], without_rules(module["read_cityscapes"]))
    monkeypatch.setattr(kinds, "DATA_SETS", (*kinds.DATA_SETS, added))
    rows = [
        f"{scene}/{place}.wav,{scene},phone,{scene}{place}" for scene in ("bus", "park") for place in range(5)
    ]
    (tmp_path / "index.csv").write_text("\n".join(["filename,place,recorder,square", *rows]))
    clips = read(tmp_path, scenes=())
    assert (clips.scenes, clips.any_length, clips.notes, len(clips.table)) == (("bus", "park"), False, (), 10)
    assert set(clips.table["split"]) == {"train", "validation", "test"}
    with pytest.raises(
        DataError, match=r"neither a TAU 2022 folder .* nor a CSV file .* nor a Cityscapes folder"
    ):
        read(tmp_path / "other")
