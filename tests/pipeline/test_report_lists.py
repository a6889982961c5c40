"""The report's section on lists beside a product and for new visitors."""

import json
from pathlib import Path

import pytest

from pipeline.report import write_report
from pipeline.report_lists import item_lists
from pipeline.report_shoppers import Shelf
from tests.pipeline.measured_run import EXAMPLES, PRODUCTS, lists, write_run
from tests.pipeline.test_report import Page


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run = write_run(tmp_path / "run", PRODUCTS, EXAMPLES)
    (run / "steps" / "export").mkdir()
    (run / "steps" / "export" / "lists.json").write_text(json.dumps(lists()))
    return run


def page_of(run: Path) -> str:
    return Page(write_report(run).read_text(encoding="utf-8")).text


def test_example_stands_with_its_lists_by_title(run: Path) -> None:
    text = page_of(run)
    assert "Red pot no. 5 Pots 15.00 Similar Red pot no. 6 Pots 16.00 Red pot no. 7" in text
    assert "Goes with it Red pot no. 1 Pots 11.00" in text


def test_weights_of_behaviour_stand_with_what_they_find(run: Path) -> None:
    text = page_of(run)
    assert (
        "Validation (4,000 pairs) vectors alone 10.0 % 0.5, served 30.0 % behaviour, filled up by vectors 20.0 %"
        in text
    )


def test_gain_of_segments_is_told(run: Path) -> None:
    text = page_of(run)
    assert "popular for their region: NDCG@10 on validation +0.0400 ± 0.0100" in text
    assert "Test 300 0.0100 0.0500" in text


def test_division_within_chance_is_told() -> None:
    content = lists()
    content["new_visitors"]["chosen"] = {"by": [], "strength": None}
    section = item_lists(content, Shelf())
    assert section is not None
    assert "by region, changes NDCG@10 by +0.0400 ± 0.0100 (standard error), less than two" in section.sentences[0]


def test_shop_without_new_visitors_or_categories_says_so(run: Path) -> None:
    content = lists()
    content["new_visitors"] = {"chosen": {"by": [], "strength": None}, "reason": "0 new visitors, 50 are needed"}
    content["complementary_items"] = {"reason": "no product has a category"}
    content["examples"][0]["complementary"] = None
    (run / "steps" / "export" / "lists.json").write_text(json.dumps(content))
    text = page_of(run)
    assert "nothing else could be tried (0 new visitors, 50 are needed)" in text
    assert "No complementary products are served: no product has a category." in text
    assert "Goes with it" not in text


def test_missing_lists_are_said_to_be_missing(run: Path) -> None:
    (run / "steps" / "export" / "lists.json").unlink()
    assert "Not measured: the export left no lists.json." in page_of(run)
