import pytest

from adaptf.data.parts import clip_key, part_name, parts_in, split_name


@pytest.mark.parametrize(
    ("samples", "parts"),
    [(1, 1), (49, 1), (100, 1), (149, 1), (150, 2), (200, 2), (249, 2), (250, 3), (340, 3), (360, 4)],
)
def test_a_rest_of_half_a_clip_or_more_is_a_clip(samples, parts):
    assert parts_in(samples, 100) == parts


def test_half_of_an_odd_clip_is_not_rounded_down():
    assert parts_in(101 + 50, 101) == 1
    assert parts_in(101 + 51, 101) == 2


@pytest.mark.parametrize(
    "file", ["hall.wav", "a folder/Straße, 3.wav", "x#t.wav", "#t", "5", "x.wav#t=", "x#t=4.wav"]
)
def test_a_part_has_the_name_of_its_file_and_a_number(file):
    for part in (0, 7, 12345):
        assert split_name(part_name(file, part)) == (file, part)
    assert split_name(file) == (file, 0)


def test_the_first_part_is_keyed_as_the_file_itself():
    assert clip_key("0123", 0) == "0123"
    assert clip_key("0123", 3) == "0123+3"
