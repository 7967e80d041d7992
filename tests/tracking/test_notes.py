"""Markdown as MLflow's pages show it."""

from adaptf.tracking.notes import for_page

TABLE = "Before.\n\n| scene | accuracy |\n|---|---:|\n| bus | 1.0 |\n| park | 2.0 |\n\nAfter | it."
ROOMY = (
    "Before.\n\n| scene&emsp; | accuracy |\n|---|---:|\n| bus&emsp; | 1.0 |\n| park&emsp; | 2.0 |\n\n&nbsp;\n"
    "\nAfter | it."
)


def test_tables_get_room_between_their_columns_and_below():
    assert for_page(TABLE, longest=1000) == ROOMY


def test_a_text_that_has_room_does_not_change():
    assert for_page(ROOMY, longest=1000) == ROOMY
    assert for_page("No table.", longest=1000) == "No table."


def test_a_text_that_would_become_too_long_stays_as_it_is():
    assert for_page(TABLE, longest=len(ROOMY) - 1) == TABLE
