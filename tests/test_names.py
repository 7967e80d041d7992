import unicodedata
from pathlib import Path

import pytest

from adaptf.names import alike, find_file, missing_file, tidy, tidy_file_name

COMPOSED, DECOMPOSED = "Ger\u00e4t", "Gera\u0308t"


@pytest.mark.parametrize(
    "name",
    [
        " park",
        "park ",
        "\tpark\n",
        "\u00a0park",
        "park\u202f",
        "\u200bpark",
        "pa\u00adrk",
        "\ufeffpark",
        "park\u200e",
    ],
)
def test_blanks_around_a_name_and_what_nobody_sees_are_no_part_of_it(name):
    assert tidy(name) == "park"


def test_blanks_within_a_name_are_one_blank():
    assert tidy("public \u00a0 square") == "public square"


def test_accents_are_composed():
    assert tidy(DECOMPOSED) == COMPOSED
    assert unicodedata.is_normalized("NFC", tidy(DECOMPOSED))


@pytest.mark.parametrize(
    "name", ["a/b.wav", r"a\b.wav", "./a/b.wav", "a//b.wav", "a/b.wav/", " a/b.wav ", r".\a\b.wav"]
)
def test_one_file_has_one_name(name):
    assert tidy_file_name(name) == "a/b.wav"


def test_no_name_stays_none():
    assert tidy(" \u200b ") == tidy_file_name(" ") == ""


def test_names_that_differ_in_what_a_reader_skips_are_alike():
    names = [
        "park",
        "Park",
        "metro_station",
        "metro station",
        "Metro-Station",
        "tram",
        "s1",
        "s 1",
        "tram",
        "paris-1",
        "paris-11",
    ]
    assert alike(names) == [["Metro-Station", "metro station", "metro_station"], ["Park", "park"]]
    assert alike(["a", "\N{CYRILLIC SMALL LETTER A}"]) == [["a", "\N{CYRILLIC SMALL LETTER A}"]]


@pytest.mark.parametrize("on_disk, asked", [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED), ("a  b", "a b")])
def test_a_file_is_found_by_a_name_that_looks_the_same(tmp_path: Path, on_disk: str, asked: str) -> None:
    file = tmp_path / on_disk / f"{on_disk}.wav"
    file.parent.mkdir()
    file.touch()
    assert find_file(tmp_path, f"{asked}/{asked}.wav") == file
    assert find_file(tmp_path, str(tmp_path / asked / f"{asked}.wav")) == file


def test_a_file_of_the_very_name_goes_before_one_that_looks_the_same(tmp_path: Path) -> None:
    for name in (COMPOSED, DECOMPOSED):
        (tmp_path / name).write_text(name)
    assert find_file(tmp_path, DECOMPOSED).read_text() == DECOMPOSED
    assert find_file(tmp_path, COMPOSED).read_text() == COMPOSED


def test_a_file_that_is_made_later_is_found(tmp_path: Path) -> None:
    assert find_file(tmp_path, COMPOSED) == tmp_path / COMPOSED
    (tmp_path / DECOMPOSED).touch()
    assert find_file(tmp_path, COMPOSED) == tmp_path / DECOMPOSED


def test_a_folder_or_a_broken_link_is_not_another_name_of_itself(tmp_path: Path) -> None:
    (tmp_path / "irs").mkdir()
    (tmp_path / "irs.wav").symlink_to(tmp_path / "nothing")
    assert missing_file(tmp_path / "irs") == "it is a folder, not a file"
    assert missing_file(tmp_path / "irs.wav") == "the file is missing"


def test_of_a_missing_file_one_of_nearly_its_name_is_told(tmp_path: Path) -> None:
    (tmp_path / "001.WAV").touch()
    assert (
        missing_file(tmp_path / "001.wav") == "the file is missing; there is '001.WAV', which is another name"
    )
    assert (
        missing_file(tmp_path / "002.wav")
        == missing_file(tmp_path / "nothing/001.wav")
        == "the file is missing"
    )
