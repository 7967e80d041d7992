import pytest

from adaptf.training.device_probability import probability_per_device

DEVICES = ("a", "b", "s1", "s2")


def test_without_groups_the_one_probability_holds_for_the_chosen_devices():
    assert probability_per_device(DEVICES, p=0.4, only=("a", "s2")) == [0.4, 0, 0, 0.4]
    assert probability_per_device(DEVICES, p=0.4) == [0.4] * 4


def test_a_group_takes_the_place_of_the_one_probability_whatever_devices_were_chosen():
    assert probability_per_device(DEVICES, p=0.4, only=("a",), p_of={"b": 0.1, "s1, s2": 0.2}) == [
        0.4,
        0.1,
        0.2,
        0.2,
    ]
    assert probability_per_device(DEVICES, p=0.4, p_of={"a": 0}) == [0, 0.4, 0.4, 0.4]


@pytest.mark.parametrize(
    ("p", "p_of", "message"),
    [
        (0.4, {"b,x": 0.1}, "dir_p_of names the device 'x' in 'b,x', the training clips are of a, b, s1, s2"),
        (0.4, {"b": 0.1, "a,b": 0.2}, "dir_p_of names the device 'b' twice"),
        (0.4, {"b": 1.5}, "dir_p_of 'b' should be a probability between 0 and 1, got 1.5"),
        (
            0.4,
            {"a": 0.1, "": 0.2},
            "dir_p_of names the device '' in '', the training clips are of a, b, s1, s2",
        ),
        (-1, {}, "dir_p should be a probability between 0 and 1, got -1"),
        (0.4, {"b": float("nan")}, "dir_p_of 'b' should be a probability between 0 and 1, got nan"),
    ],
)
def test_a_wrong_group_is_refused(p, p_of, message):
    with pytest.raises(ValueError, match=message):
        probability_per_device(DEVICES, p=p, p_of=p_of)


def test_a_chosen_device_that_there_is_not_is_refused():
    with pytest.raises(
        ValueError, match="dir_devices names the device 'x', the training clips are of a, b, s1, s2"
    ):
        probability_per_device(DEVICES, p=0.4, only=("a", "x"))
