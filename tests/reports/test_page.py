"""The page: what it says, that it fetches nothing, and that no name breaks it."""

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from adaptf.evaluation.scores import prediction_table
from adaptf.evaluation.tables import accuracy_table, device_table, difference_table, scene_table
from adaptf.reports.hardest_clips import hardest_clips
from adaptf.reports.page import Cell, Picture, Report, Section, Table, TableRow, table_of, write_report
from adaptf.reports.settings_sections import (
    NO_SOUND,
    calibration_section,
    complexity_section,
    confidence_sentence,
    difference_sentences,
    differences_section,
    figures_section,
    hardest_section,
    in_words,
)

SCENES = ("<b>bus</b>", "park & ride", "$tram$_1")
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


class Tags(HTMLParser):
    """All tags of a page with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def predict(seed: int, gain: float, devices: tuple[str, ...] = ("<i>a</i>", "s4")) -> pd.DataFrame:
    scene = np.arange(60) % 3
    logits = np.random.default_rng(seed).standard_normal((60, 3)).astype(np.float32)
    logits[np.arange(60), scene] += gain
    clips = pd.DataFrame(
        {
            "filename": [f"<u>{row}</u>.wav" for row in range(60)],
            "scene": np.array(SCENES)[scene],
            "device": np.array(devices)[np.arange(60) // 3 % len(devices)],
            "location": [f"paris-{row % 12}" for row in range(60)],
        }
    )
    return prediction_table(clips, logits, SCENES)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "pixel.png"
    path.write_bytes(PIXEL)
    return path


@pytest.fixture
def report(picture: Path) -> Report:
    settings = {"<em>one</em>": [predict(0, 0.5)], "two": [predict(1, 2.0)]}
    hard = hardest_clips(settings["two"], SCENES, count=2)
    sound = picture.with_name("01.flac")
    sound.write_bytes(b"fLaC")
    differences = difference_table(settings, draws=100)
    return Report(
        title="<script>alert(1)</script>",
        lead=tuple(difference_sentences(differences, list(settings))),
        warnings=("beware of <img src=x>",),
        facts=(("<dt>", "<dd>"),),
        sections=(
            figures_section(scene_table(settings, SCENES), device_table(settings, ["<i>a</i>"]), picture),
            differences_section(accuracy_table(settings), differences, picture),
            hardest_section(hard, SCENES, "two", cities={}, pictures=[picture] * 2, sounds=[sound] * 2),
        ),
    )


def test_the_page_fetches_nothing(report: Report, tmp_path: Path) -> None:
    tags = Tags(write_report(report, tmp_path / "report.html").read_text()).found
    sources = [
        value
        for tag, attributes in tags
        for name, value in attributes.items()
        if name in ("src", "href") and tag != "a"
    ]
    assert sources and all(str(source).startswith("data:") for source in sources)
    assert not {"iframe", "object", "embed", "form"} & {tag for tag, _ in tags}
    policy = next(attributes["content"] for tag, attributes in tags if attributes.get("http-equiv"))
    assert str(policy).startswith("default-src 'none'")


def test_the_policy_allows_the_pages_own_script_and_no_other(report: Report, tmp_path: Path) -> None:
    text = write_report(report, tmp_path / "report.html").read_text()
    (script,) = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text


def test_no_name_becomes_a_tag(report: Report, tmp_path: Path) -> None:
    text = write_report(report, tmp_path / "report.html").read_text()
    tags = [tag for tag, _ in Tags(text).found]
    assert not {"i", "u", "em"} & set(tags)
    assert tags.count("script") == 1
    assert "&lt;b&gt;bus&lt;/b&gt;" in text and "park &amp; ride" in text


def test_the_same_report_makes_the_same_bytes(report: Report, tmp_path: Path) -> None:
    first, second = (write_report(report, tmp_path / name / "report.html").read_bytes() for name in "ab")
    assert first == second


def test_the_navigation_leads_to_every_section(report: Report, tmp_path: Path) -> None:
    tags = Tags(write_report(report, tmp_path / "report.html").read_text()).found
    places = {f"#{attributes['id']}" for _, attributes in tags if "id" in attributes}
    links = [attributes["href"] for tag, attributes in tags if tag == "a"]
    assert len(links) == 1 + len(report.sections) and set(links) <= places


def test_pictures_have_a_text_in_their_place(report: Report, tmp_path: Path) -> None:
    tags = Tags(write_report(report, tmp_path / "report.html").read_text()).found
    assert all(attributes.get("alt") for tag, attributes in tags if tag == "img")


def test_links_and_ids_are_shown(tmp_path: Path) -> None:
    table = Table(
        "Runs.",
        ("run", "id"),
        (TableRow("train", (Cell("abc", code=True, link="http://server/#/runs/abc"),)),),
    )
    page = Report("Title", (), (), (), (Section("Lineage", "Lineage", blocks=(table,)),))
    assert '<a href="http://server/#/runs/abc"' in write_report(page, tmp_path / "report.html").read_text()


def test_the_best_of_a_row_is_marked_by_its_figure_as_it_is_written() -> None:
    frame = pd.DataFrame(
        {"x": [50.01, 1.5, 3.0, np.nan], "y": [50.04, 1.2, 3.0, 2.0]},
        index=["bus", "log loss", "park", "tram"],
    )
    rows = table_of(frame, "", mark_best=True, lowest_is_best={"log loss"}).rows
    assert [[cell.best for cell in row.cells] for row in rows] == [
        [False] * 2,
        [False, True],
        [False] * 2,
        [False] * 2,
    ]
    frame.loc["bus"] = [50.0, 60.0]
    assert [cell.best for cell in table_of(frame, "", mark_best=True).rows[0].cells] == [False, True]


def test_one_setting_has_no_best_and_nothing_to_compare(picture: Path, tmp_path: Path) -> None:
    settings = {"only": [predict(0, 1.0)]}
    sections = (
        figures_section(scene_table(settings, SCENES), device_table(settings, ["s4"]), picture),
        differences_section(accuracy_table(settings), difference_table(settings, draws=100), picture),
    )
    text = write_report(Report("", (), (), (), sections), tmp_path / "report.html").read_text()
    assert "nothing to compare it with" in text
    assert 'class="best"' not in text and "star" not in text.partition("<body>")[2]


def row_of(difference: float, low: float, high: float, stands: str) -> pd.Series:
    return pd.Series({"difference": difference, "low": low, "high": high, "stands": stands})


def test_differences_are_told_in_words() -> None:
    assert in_words(row_of(1.3, 0.4, 2.2, "yes")) == "stands: 0.4 to 2.2 points better"
    assert in_words(row_of(-1.3, -2.2, -0.4, "yes")) == "stands: 0.4 to 2.2 points worse"
    assert in_words(row_of(0.6, -7.6, 7.8, "no")) == "may be chance: 7.6 points worse to 7.8 better"
    assert in_words(row_of(0.6, 0.1, 1.0, "no")) == "may be chance: other seeds could turn it"
    assert in_words(row_of(0.6, np.nan, np.nan, "no")) == "not known: every scene has a single place"


def test_a_setting_that_is_too_sure_is_told() -> None:
    row = pd.Series({"accuracy": 50.0, "mean confidence": 62.5, "calibration error": 12.6})
    timid, apt = row.replace(50.0, 70.0), row.replace(50.0, 62.0)
    assert (
        confidence_sentence("x", row)
        == "'x' is on average 12.5 points surer than it is right (calibration error 12.6)."
    )
    assert "less sure" in confidence_sentence("x", timid)
    assert "as sure as it is right" in confidence_sentence("x", apt)


def test_without_audio_the_hardest_clips_are_listed_and_it_is_said(tmp_path: Path) -> None:
    clips = hardest_clips([predict(0, 0.0)], SCENES, count=3)
    section = hardest_section(clips, SCENES, "x", cities={"<u>0</u>.wav": "Paris"}, pictures=[], sounds=[])
    text = write_report(Report("", (), (), (), (section,)), tmp_path / "report.html").read_text()
    assert NO_SOUND in text and "<audio" not in text and text.count('class="clip"') == 3


def test_a_model_without_mistakes_has_no_hardest_clips() -> None:
    section = hardest_section(
        hardest_clips([predict(0, 50.0)], SCENES), SCENES, "x", cities={}, pictures=[], sounds=[]
    )
    assert section.text == ("'x' recognises every clip.",) and not section.blocks


def test_complexity_is_held_against_the_limits() -> None:
    row = {
        "parameters": 126858,
        "macs": 29419648,
        "model_bytes": 126868,
        "served macs": 29413888,
        "served bytes": 126868,
        "INT8 convolutions": "43/43",
        "float accuracy": 58.3,
        "INT8 accuracy": 58.0,
    }
    (table,) = complexity_section(pd.DataFrame([row], index=["a"])).blocks
    assert isinstance(table, Table)
    texts = [cell.text for cell in table.rows[0].cells]
    assert texts[:5] == [
        "126,858",
        "29,419,648 (98.1 %)",
        "126,868 (99.1 %)",
        "29,413,888 (98.0 %)",
        "126,868 (99.1 %)",
    ]
    assert texts[5:] == ["43/43", "58.3", "58.0"]
    assert "No INT8 models" in complexity_section(None).text[0]


def test_calibration_names_its_source(picture: Path) -> None:
    table = pd.DataFrame(
        {"accuracy": [50.0], "mean confidence": [60.0], "calibration error": [10.0]}, index=["x"]
    )
    caption = calibration_section(table, picture, picture).blocks[0].caption  # type: ignore[union-attr]
    assert "15 bins of equal width" in caption and "Guo et al., 2017" in caption


def test_a_picture_is_inside_the_page(picture: Path, tmp_path: Path) -> None:
    page = Report("", (), (), (), (Section("", "", blocks=(Picture(picture, "Caption.", "A pixel."),)),))
    text = write_report(page, tmp_path / "report.html").read_text()
    assert base64.b64encode(PIXEL).decode() in text
    assert "Other." in write_report(replace(page, title="Other."), tmp_path / "other.html").read_text()
