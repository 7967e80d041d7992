import numpy as np
import pytest

from adaptf.data.audioset import read_audioset
from adaptf.data.errors import DataError

CLASSES = 'index,mid,display_name\n0,/m/a,"Speech"\n1,/m/b,"Male speech, man speaking"\n2,/m/c,Siren\n'
SEGMENTS = """# Segments csv created Sun Mar  5 10:54:31 2017
# num_ytids=4
# YTID, start_seconds, end_seconds, positive_labels
--4gqARaEJE, 0.000, 10.000, "/m/a,/m/c"
-_BfVyuWPPs, 30.000, 40.000, "/m/b"
aaaaaaaaaaa, 5.000, 15.000, "/m/a"
bbbbbbbbbbb, 1.000, 11.000, "/m/c"
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "class_labels_indices.csv").write_text(CLASSES)
    (tmp_path / "balanced_train_segments.csv").write_text(SEGMENTS)
    (tmp_path / "audio").mkdir()
    for name in ("--4gqARaEJE.wav", "-_BfVyuWPPs_30000.flac", "bbbbbbbbbbb_1.000.wav", "bbbbbbbbbbb_77.000.wav"):
        (tmp_path / "audio" / name).write_bytes(b"")
    return tmp_path


def test_clips_are_found_by_video_and_start(folder):
    clips = read_audioset(folder, validation_share=0.0, seed=0)
    assert clips.filenames == ("audio/--4gqARaEJE.wav", "audio/-_BfVyuWPPs_30000.flac", "audio/bbbbbbbbbbb_1.000.wav")
    assert clips.class_names == ("Speech", "Male speech, man speaking", "Siren")
    assert clips.targets.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 1]]


def test_missing_clips_are_counted_and_left_out(folder):
    assert read_audioset(folder, validation_share=0.0, seed=0).missing == ("aaaaaaaaaaa",)


def test_validation_is_a_share_of_the_videos_that_other_clips_do_not_move(folder):
    every = read_audioset(folder, validation_share=1.0, seed=0)
    assert every.validation.all()
    some = read_audioset(folder, validation_share=0.5, seed=3)
    (folder / "audio" / "aaaaaaaaaaa.wav").write_bytes(b"")
    more = read_audioset(folder, validation_share=0.5, seed=3)
    kept = [name in some.filenames for name in more.filenames]
    assert np.array_equal(more.validation[kept], some.validation)


def test_an_unknown_label_is_named_with_its_line(folder):
    (folder / "balanced_train_segments.csv").write_text(SEGMENTS.replace('"/m/b"', '"/m/x"'))
    with pytest.raises(DataError, match=r"line 5, -_BfVyuWPPs: label /m/x is not in class_labels_indices\.csv"):
        read_audioset(folder, validation_share=0.0, seed=0)


def test_a_broken_line_is_named(folder):
    (folder / "balanced_train_segments.csv").write_text(SEGMENTS + "ccccccccccc, soon\n")
    with pytest.raises(DataError, match=r"line 8: expected YTID, start, end and quoted labels"):
        read_audioset(folder, validation_share=0.0, seed=0)


def test_a_folder_without_any_clip_is_an_error(folder):
    for path in (folder / "audio").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="none of the 4 videos"):
        read_audioset(folder, validation_share=0.0, seed=0)


def test_a_missing_class_table_is_an_error_that_says_its_columns(folder):
    (folder / "class_labels_indices.csv").unlink()
    with pytest.raises(DataError, match="should have the columns index, mid, display_name"):
        read_audioset(folder, validation_share=0.0, seed=0)
