"""What somebody sees who opens MLflow's pages after `main`."""

import re
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.slow
RunOf = Callable[[str], Any]


def open_run_list(page: Any, run_of: RunOf) -> None:
    """The list of the experiment, with the runs below `main`."""
    page.goto(f"/#/experiments/{run_of('main').info.experiment_id}/runs?workflowType=machine_learning")
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name="main", exact=True))
    row.get_by_role("button").first.click()
    page.get_by_role("link", name="prepare scenes").wait_for()


def open_run(page: Any, run: Any, tab: str = "") -> None:
    page.goto(f"/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}{tab}")


def test_the_run_list_shows_readable_names(page: Any, run_of: RunOf) -> None:
    open_run_list(page, run_of)
    for name in (
        "train DIR=0.4 lr=0.01", "teacher ssl (small_cnn)", "distill T=2 w=0.02", "finetune", "quantize",
        "evaluate", "register", "promote",
    ):  # fmt: skip
        # The model that a run keeps stands in the same row, and may be called alike.
        page.get_by_role("link", name=name, exact=True).first.wait_for()
    page.get_by_role("link", name="compare train DIR=0.4 lr=0.01, distill T=2 w=0.02").wait_for()


def test_a_column_of_accuracies_sorts_the_runs(page: Any, run_of: RunOf) -> None:
    open_run_list(page, run_of)
    page.get_by_role("button", name="Columns").click()
    page.get_by_placeholder("Search columns").fill("best/accuracy")
    page.get_by_text("best/accuracy", exact=True).first.click()  # the others go on with a device
    page.keyboard.press("Escape")
    page.get_by_role("columnheader").get_by_text("best/accuracy", exact=True).click()
    best = page.locator('[row-index="0"] [col-id*="best/accuracy"]')  # runs without it come last
    best.filter(has_text=re.compile(r"^0\.\d|^1$")).wait_for()


def test_a_stages_page_begins_with_its_tables(page: Any, run_of: RunOf) -> None:
    open_run(page, run_of("distill"))
    lead = "Macro-average accuracy, mean over devices: teachers .*, distilled .*validation clips"
    page.get_by_text(re.compile(lead)).wait_for()
    page.get_by_text("Show more").click()
    for row in ("airport", "macro average", "log loss", "known devices"):
        page.get_by_role("row", name=re.compile(f"^{row}")).first.wait_for()
    page.get_by_text("Teachers: ssl (small_cnn)").wait_for()


@pytest.mark.parametrize(
    ("stage", "file", "heading"),
    [("evaluate", "report.html", "Acoustic scenes"), ("compare", "compare.html", "against train")],
)
def test_a_page_of_a_run_opens_among_its_artifacts(
    stage: str, file: str, heading: str, page: Any, run_of: RunOf
) -> None:
    open_run(page, run_of(stage), f"/artifacts/{file}")
    shown = page.frame_locator("iframe")
    shown.get_by_role("heading", name=re.compile(heading)).first.wait_for()
    shown.get_by_role("img").first.wait_for()


def test_the_page_of_models_lists_what_runs_keep(page: Any, run_of: RunOf) -> None:
    page.goto(f"/#/experiments/{run_of('main').info.experiment_id}/models")
    for name in ("train DIR=0_4 lr=0_01", "finetune a", "quantize"):
        page.get_by_role("link", name=name, exact=True).first.wait_for()


def test_the_registry_shows_the_devices_models_with_alias_and_stage(page: Any) -> None:
    page.goto("/#/models")
    for name in ("adaptf-a", "adaptf-unknown", "adaptf-router"):
        row = page.get_by_role("row").filter(has=page.get_by_role("link", name=name, exact=True))
        row.get_by_text("@ production").wait_for()
    page.goto("/#/models/adaptf-a/versions/1")
    page.get_by_role("heading", name="Version 1").wait_for()
    page.get_by_text("@ production").wait_for()
    page.get_by_text("Stage (deprecated)").wait_for()
    page.get_by_text("Production", exact=True).first.wait_for()
    page.get_by_text("INT8 model of device").wait_for()
    page.get_by_role("row", name=re.compile("^macro average")).wait_for()
