import pytest

from adaptf.data.shared_objects import SharedObjects


def test_a_value_is_made_once_for_its_key():
    shared, made = SharedObjects(), []
    first, again, other = (
        shared.once(key, lambda: made.append(1) or [len(made)]) for key in (("a", 1), ("a", 1), ("a", 2))
    )
    assert first is again and first == [1] and other == [2]


def test_nothing_is_made_once_too_and_nothing_is_kept_elsewhere():
    shared, made = SharedObjects(), []
    assert shared.once("none", lambda: made.append(1)) is shared.once("none", lambda: made.append(1)) is None
    assert len(made) == 1
    assert SharedObjects().once("none", lambda: 5) == 5


def test_what_could_not_be_made_is_asked_again():
    shared = SharedObjects()
    with pytest.raises(OSError, match="away"):
        shared.once("file", lambda: (_ for _ in ()).throw(OSError("away")))
    assert shared.once("file", lambda: "there") == "there"
