"""What makes another version of the code."""

import pytest

from adaptf.pipeline.fingerprint import code_of

CODE = '''"""A module."""
LEAST = 2
"""Of clips."""

def double(x: int) -> int:
    """Twice."""
    return 2 * x
'''


@pytest.mark.parametrize(
    "edited",
    [
        CODE.replace("Twice.", "Twice as much."),
        CODE.replace('    """Twice."""\n', ""),
        CODE.replace("Of clips.", "Of clips, at least."),
        CODE.replace("    return", "    # so much\n    return"),
        CODE.replace("2 * x", "(2 * x)"),
    ],
)
def test_other_words_are_no_other_code(edited: str) -> None:
    assert edited != CODE and code_of(edited) == code_of(CODE)


@pytest.mark.parametrize(
    "edited",
    [
        CODE.replace("2 * x", "3 * x"),
        CODE.replace("LEAST = 2", "LEAST = 3"),
        CODE.replace("return 2 * x", 'return "2 * x"'),
    ],
)
def test_another_value_is_other_code(edited: str) -> None:
    assert code_of(edited) != code_of(CODE)


def test_a_page_is_what_it_says() -> None:
    assert code_of("<p>a</p>", ".html") != code_of("<p>b</p>", ".html")
