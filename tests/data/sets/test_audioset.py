import logging

import numpy as np
import pytest

from adaptf.data.errors import DataError
from adaptf.data.sets.audioset import read_audioset

CLASSES = 'index,mid,display_name\n0,/m/a,"Speech"\n1,/m/b,"Male speech, man speaking"\n2,/m/c,Siren\n'
SEGMENTS = """# Segments csv created Sun Mar  5 10:54:31 2017
# num_ytids=4
# YTID, start_seconds, end_seconds, positive_labels
--4gqARaEJE, 0.000, 10.000, "/m/c,/m/a"
-_BfVyuWPPs, 30.000, 40.000, "/m/b"
aaaaaaaaaaa, 5.000, 15.000, "/m/a"
bbbbbbbbbbb, 1.000, 11.000, "/m/c"
"""
FILES = ("--4gqARaEJE.wav", "-_BfVyuWPPs_30000.flac", "bbbbbbbbbbb_1.000.wav", "bbbbbbbbbbb_77.000.wav")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "class_labels_indices.csv").write_text(CLASSES)
    (tmp_path / "balanced_train_segments.csv").write_text(SEGMENTS)
    (tmp_path / "audio").mkdir()
    for name in FILES:
        (tmp_path / "audio" / name).write_bytes(b"")
    return tmp_path


def read(folder, *, validation_share=0.0, seed=0):
    return read_audioset(folder, validation_share=validation_share, seed=seed)


def write_segments(folder, *rows):
    (folder / "balanced_train_segments.csv").write_text("# a comment\n" + "\n".join(rows) + "\n")


def rename(folder, old, new):
    (folder / "audio" / old).rename(folder / "audio" / new)


def message(folder):
    with pytest.raises(DataError) as error:
        read(folder)
    return str(error.value)


def test_clips_are_found_by_video_and_start(folder):
    clips = read(folder)
    assert clips.filenames == (
        "audio/--4gqARaEJE.wav",
        "audio/-_BfVyuWPPs_30000.flac",
        "audio/bbbbbbbbbbb_1.000.wav",
    )
    assert clips.class_names == ("Speech", "Male speech, man speaking", "Siren")


def test_labels_are_places_among_the_class_names_in_their_order(folder):
    assert read(folder).labels == ("0 2", "1", "2")


@pytest.mark.parametrize(
    "name",
    ["bbbbbbbbbbb_1.ogg", "bbbbbbbbbbb_1000_11000.mp3", "bbbbbbbbbbb_1.000_11.000.WAV", "bbbbbbbbbbb.wav"],
)
def test_a_start_may_be_in_seconds_in_milliseconds_or_absent(folder, name):
    rename(folder, "bbbbbbbbbbb_1.000.wav", name)
    assert read(folder).filenames[2] == f"audio/{name}"


def test_a_start_is_not_taken_for_one_that_begins_with_the_same_digits(folder):
    rename(folder, "bbbbbbbbbbb_1.000.wav", "bbbbbbbbbbb_10.000.wav")
    assert read(folder).missing == ("aaaaaaaaaaa", "bbbbbbbbbbb")


def test_a_file_of_another_start_is_not_taken(folder):
    (folder / "audio" / "aaaaaaaaaaa_77.wav").write_bytes(b"")
    assert read(folder).missing == ("aaaaaaaaaaa",)


def test_one_of_two_files_with_the_same_name_but_for_the_suffix_is_taken(folder):
    (folder / "audio" / "--4gqARaEJE.flac").write_bytes(b"")
    assert read(folder).filenames[0] == "audio/--4gqARaEJE.flac"


def test_missing_clips_are_named_and_left_out(folder):
    assert read(folder).missing == ("aaaaaaaaaaa",)


def test_validation_is_a_share_of_the_videos_that_other_clips_do_not_move(folder):
    every = read(folder, validation_share=1.0)
    assert every.validation.all()
    some = read(folder, validation_share=0.5, seed=3)
    (folder / "audio" / "aaaaaaaaaaa.wav").write_bytes(b"")
    more = read(folder, validation_share=0.5, seed=3)
    kept = [name in some.filenames for name in more.filenames]
    assert np.array_equal(more.validation[kept], some.validation)


def test_segments_of_one_video_are_on_one_side(folder):
    starts = range(0, 400, 10)
    write_segments(folder, *(f'ccccccccccc, {start}.000, {start + 10}.000, "/m/a"' for start in starts))
    for start in starts:
        (folder / "audio" / f"ccccccccccc_{start}.wav").write_bytes(b"")
    assert len(set(read(folder, validation_share=0.5).validation)) == 1


def test_without_a_class_table_the_labels_are_the_527_of_audioset(folder):
    (folder / "class_labels_indices.csv").unlink()
    write_segments(folder, '--4gqARaEJE, 0.000, 10.000, "/m/09x0r,/m/07hvw1"')
    clips = read(folder)
    assert len(clips.class_names) == 527
    assert clips.class_names[0] == "Speech"
    assert clips.labels == ("0 526",)


def test_an_unknown_label_is_named_with_its_line(folder):
    (folder / "balanced_train_segments.csv").write_text(SEGMENTS.replace('"/m/b"', '"/m/x"'))
    assert "line 5, -_BfVyuWPPs: label '/m/x' is not in class_labels_indices.csv" in message(folder)


def test_a_label_that_is_none_of_audiosets_is_named_with_its_line(folder):
    (folder / "class_labels_indices.csv").unlink()
    write_segments(folder, 'ccccccccccc, 0.000, 10.000, "/m/09x0r,/m/x"')
    assert "line 2, ccccccccccc: label '/m/x' is not in AudioSet's 527 labels" in message(folder)


def test_every_wrong_row_is_listed_with_its_line(folder):
    write_segments(
        folder,
        'ccccccccccc, 0.000, 10.000, "/m/a"',
        "ddddddddddd, soon",
        'eeeeeeeeeee, 0.000, 10.000, ""',
        'fffffffffff, 0.000, 10.000, "/m/a,/m/b',
        'ccccccccccc, 0.0, 10.0, "/m/b"',
        "ggggggggggg, 0.000, 10.000, /m/a,/m/b",
        'hhhhhhhhhhh, 0.000, 10.000, "/m/x"',
    )
    assert message(folder).splitlines() == [
        f"6 problems in {folder / 'balanced_train_segments.csv'}:",
        "  line 3: expected YTID, start, end and quoted labels, got 'ddddddddddd, soon'",
        "  line 4, eeeeeeeeeee: the row has no label",
        "  line 5: expected YTID, start, end and quoted labels, got 'fffffffffff, 0.000, 10.000, "
        "\"/m/a,/m/b'",
        "  line 6, ccccccccccc: line 2 names the segment from 0 s too",
        "  line 7: expected YTID, start, end and quoted labels, got 'ggggggggggg, 0.000, 10.000, /m/a,/m/b'",
        "  line 8, hhhhhhhhhhh: label '/m/x' is not in class_labels_indices.csv",
    ]


def test_a_file_that_fits_two_segments_is_an_error_that_says_how_to_name_it(folder):
    write_segments(folder, '--4gqARaEJE, 0.000, 10.000, "/m/a"', '--4gqARaEJE, 30.000, 40.000, "/m/b"')
    assert (
        "audio/--4gqARaEJE.wav could be the segment from 0 s or from 30 s: call such files <YTID>_<start>.wav"
    ) in message(folder)


def test_a_folder_without_any_clip_is_an_error_that_says_how_files_are_named(folder):
    for path in (folder / "audio").iterdir():
        path.unlink()
    found = message(folder)
    assert (
        f"none of the 4 videos of {folder / 'balanced_train_segments.csv'} has an audio file below {folder}"
        in found
    )
    assert found.endswith(": <YTID>.wav or <YTID>_<start>.wav, also .flac, .mp3, .ogg")


def test_files_of_other_kinds_are_to_be_converted(folder):
    for name in FILES:
        rename(folder, name, name.rsplit(".", 1)[0] + (".webm" if name.startswith("-_") else ".M4A"))
    assert message(folder).endswith(
        "; for 3 of the missing clips there is a file of a kind that is not read (.M4A, .webm), such as "
        "audio/--4gqARaEJE.M4A: convert them to WAV or FLAC"
    )


def test_files_of_other_kinds_beside_readable_ones_are_a_warning(folder, caplog):
    (folder / "audio" / "aaaaaaaaaaa.m4a").write_bytes(b"")
    (folder / "audio" / "bbbbbbbbbbb_1.000.webm").write_bytes(b"")
    (folder / "audio" / "not_in_the_table.webm").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        assert read(folder).missing == ("aaaaaaaaaaa",)
    assert caplog.messages == [
        f"{folder}: for 1 of the missing clips there is a file of a kind that is not read (.m4a), such as "
        "audio/aaaaaaaaaaa.m4a: convert them to WAV or FLAC"
    ]


@pytest.mark.parametrize("content", ["index,mid\n0,/m/a\n", "index,mid,display_name\nfirst,/m/a,Speech\n"])
def test_a_broken_class_table_is_an_error_that_says_its_columns(folder, content):
    (folder / "class_labels_indices.csv").write_text(content)
    assert (
        f"{folder / 'class_labels_indices.csv'} should have the columns index, mid, display_name"
        in message(folder)
    )


def test_a_segment_table_that_is_no_text_is_named(folder):
    (folder / "balanced_train_segments.csv").write_bytes(bytes(range(128, 256)))
    assert f"{folder / 'balanced_train_segments.csv'} is not readable as a comma separated table" in message(
        folder
    )


def test_hidden_files_beside_the_clips_are_none(folder):
    (folder / "audio" / "._aaaaaaaaaaa.wav").write_bytes(b"")
    (folder / "audio" / ".aaaaaaaaaaa.wav").write_bytes(b"")
    assert read(folder).missing == ("aaaaaaaaaaa",)


@pytest.mark.parametrize("which", ["the whole folder", "its audio", "each clip"])
def test_clips_behind_symbolic_links_are_found(folder, which, tmp_path_factory):
    elsewhere, before = tmp_path_factory.mktemp("elsewhere") / "moved", read(folder)
    if which == "the whole folder":
        elsewhere.symlink_to(folder)
        assert read(elsewhere).filenames == before.filenames
        return
    (folder / "audio").rename(elsewhere)
    if which == "its audio":
        (folder / "audio").symlink_to(elsewhere)
    else:
        (folder / "audio").mkdir()
        for name in FILES:
            (folder / "audio" / name).symlink_to(elsewhere / name)
    assert read(folder).filenames == before.filenames
