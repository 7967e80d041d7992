"""Damaged and random tables: an error that says what is wrong, or the right rows."""

import csv
import io
import shutil

import pytest
from fixtures.fuzz import damaged, file_with, folder, fuzz
from hypothesis import example, given
from hypothesis import strategies as st

from adaptf.data.errors import DataError
from adaptf.data.sets.files_to_predict import read_files_to_predict
from adaptf.data.sets.read_clips import read_clips
from adaptf.data.tables import SEPARATORS, read_strings
from adaptf.models.students.tfsepnet.public_checkpoint import CLASSES as TAU_SCENES
from adaptf.names import tidy, tidy_file_name

pytestmark = pytest.mark.slow


cells = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["NA", "nan", "1e5", "007", "a,b", '"', "'"]
)


@fuzz(150)
@given(rows=st.lists(st.tuples(cells, cells, cells), max_size=5), separator=st.sampled_from([",", ";", "\t"]))
def test_a_table_comes_back_as_it_was_written(rows, separator):
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, quoting=csv.QUOTE_ALL)
    writer.writerows([("a", "b", "c"), *rows])
    with file_with(text.getvalue().encode()) as path:
        table = read_strings(path, ["a", "b"])
    tidied = [[tidy(cell) for cell in row] for row in rows]
    assert table.to_numpy().tolist() == [row for row in tidied if any(row)]


HEADERS = ["filename,scene,device\n", "filename\tdevice_id\n", "filename,device\n"]
WORDS = [
    "filename",
    "scene",
    "device",
    "split",
    "a.wav",
    "b.wav",
    "bus",
    "park",
    "train",
    "NA",
    "1",
    " ",
    "é",
    "公",
    "x" * 300,
]
MARKS = [",", ",", "\t", ";", '"', "'", "\\", "#t=", "\n", "\n", "\r\n", "\r", "\ufeff", "\0", "\x1a"]
words_and_marks = st.lists(st.sampled_from(WORDS) | st.sampled_from(MARKS), max_size=40).map("".join)
random_text = st.builds("".join, st.tuples(st.sampled_from(["", *HEADERS]), words_and_marks)).map(str.encode)
OWN_CSV = "filename,scene,device,location,city,split\n" + "".join(
    f'"hall {number}.wav",{("bus", "park")[number % 2]},phone,place '
    f"{number},Oslo,{('train', 'test')[number // 4]}\n"
    for number in range(6)
)


def rows_by_csv_module(content, wanted):
    """Tidied cells by name as Python's reader finds them, without empty lines."""
    text = content.decode("utf-8-sig")
    readings = [
        list(csv.reader(io.StringIO(text, newline=""), delimiter=one, skipinitialspace=True))
        for one in SEPARATORS
    ]
    named, *rows = max(
        (filled(lines) for lines in readings),
        key=lambda lines: len({tidy(name) for name in lines[0]} & wanted),
    )
    names = [tidy(name) for name in named]
    cells = [dict(zip(names, row + [""] * (len(names) - len(row)), strict=True)) for row in rows]
    return [
        {name: tidy_file_name(cell) if name == "filename" else tidy(cell) for name, cell in row.items()}
        for row in cells
    ]


def filled(rows):
    """Rows that hold something; of the others readers differ in what an empty line is."""
    return [list(row) for row in rows if tidy("".join(row))]


def has_lone_carriage_returns(content):
    """They end a line for some readers only."""
    return b"\r" in content.replace(b"\r\n", b"\n")


@fuzz(150)
@given(content=damaged(OWN_CSV.encode()) | random_text)
@example(b"filename,scene,device\nx.wav,bus,phone,\ny.wav,park,phone,\n")
@example(b"filename,scene,device, scene\nx.wav,bus,phone,park\n")
def test_own_data_by_a_damaged_table_is_refused_or_right(content):
    with file_with(content, "clips.csv") as path:
        try:
            clips = read_clips(path, validation_share=0.2, test_share=0.2, seed=0)
        except DataError as error:
            assert "clips.csv" in str(error)
            return
    if not has_lone_carriage_returns(content):
        columns = ["filename", "scene", "device"]
        expected = rows_by_csv_module(content, set(columns))
        assert clips.table[columns].to_numpy().tolist() == [
            [row[name] for name in columns] for row in expected
        ]
        assert set(clips.scenes) == {row["scene"] for row in expected}


@pytest.fixture(scope="module")
def tau_tables(tmp_path_factory):
    """The tables of a folder in TAU's layout."""
    root = tmp_path_factory.mktemp("tau")
    (root / "evaluation_setup").mkdir()
    names = [
        (f"audio/{scene}-paris-{place}-0-0-a.wav", scene, place)
        for scene in ("airport", "bus")
        for place in range(4)
    ]
    meta = [f"{name}\t{scene}\tparis-{scene}-{place}\ta" for name, scene, place in names]
    tables = {
        "meta.csv": ["filename\tscene_label\tidentifier\tsource_label", *meta],
        "evaluation_setup/fold1_train.csv": [
            "filename\tscene_label",
            *[f"{name}\t{scene}" for name, scene, _ in names[:6]],
        ],
        "evaluation_setup/fold1_evaluate.csv": [
            "filename\tscene_label",
            *[f"{name}\t{scene}" for name, scene, _ in names[6:]],
        ],
    }
    for table, lines in tables.items():
        (root / table).write_text("\n".join(lines) + "\n")
    return root


@pytest.mark.parametrize(
    "damaged_table", ["meta.csv", "evaluation_setup/fold1_train.csv", "evaluation_setup/fold1_evaluate.csv"]
)
@fuzz(50)
@given(data=st.data())
def test_a_tau_folder_with_a_damaged_table_is_refused_or_right(tau_tables, damaged_table, data):
    with folder() as root:
        shutil.copytree(tau_tables, root, dirs_exist_ok=True)
        content = data.draw(damaged((root / damaged_table).read_bytes()) | random_text)
        (root / damaged_table).write_bytes(content)
        try:
            table = read_clips(root, scenes=TAU_SCENES, validation_share=0.2, test_share=0.2, seed=0).table
        except DataError as error:
            assert str(root) in str(error)
            return
        meta = (root / "meta.csv").read_bytes()
    if not has_lone_carriage_returns(meta):
        columns = ["filename", "scene_label", "source_label", "identifier"]
        known = {tuple(row[name] for name in columns) for row in rows_by_csv_module(meta, set(columns))}
        assert (
            set(table[["filename", "scene", "device", "location"]].itertuples(index=False, name=None))
            <= known
        )


@fuzz(100)
@given(
    content=damaged("filename\tdevice_id\naudio/é 0.wav\ta\naudio/1.wav\tunknown\n".encode()) | random_text
)
@example(b"filename\tdevice\tdevice_id\nx.wav\ta\tb\n")
def test_a_damaged_evaluation_list_is_refused_or_right(content):
    with folder() as root:
        (root / "evaluation_setup").mkdir()
        (root / "evaluation_setup/test.csv").write_bytes(content)
        try:
            table, _ = read_files_to_predict(root)
        except DataError as error:
            assert str(root) in str(error)
            return
    if not has_lone_carriage_returns(content):
        expected = rows_by_csv_module(content, {"filename"})
        rows = [(row["filename"], row.get("device", row.get("device_id", ""))) for row in expected]
        assert filled(table.to_numpy()) == filled(rows)
