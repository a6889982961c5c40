"""The section of the report that explains recommendations."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.bias_charts import Curve, heat_map, line_chart
from pipeline.report_explanation import explanation
from pipeline.report_shoppers import Product, Shelf
from tests.pipeline.measured_run import EXAMPLES, HOSTILE, PRODUCTS, write_run
from tests.pipeline.test_report import page_of

SHELF = Shelf({f"p{number}": Product(f"Pot {number}") for number in range(10)})


def content(slots: int = 3) -> dict[str, Any]:
    """explanation.json: contributions grow to the newest, whose sign is the other."""
    shares = [0.5 * (slot + 1) for slot in range(slots)]
    shares[-1] *= -1
    shopper = {
        "user_id": "u0",
        "item_id": "p9",
        "score": 2.0,
        "baseline_score": 2.0 - sum(shares),
        "history": [f"p{slot}" for slot in range(slots)],
        "attention": [1 / slots] * slots,
        "attributions": shares,
    }
    biases = {
        "blocks": [
            {"distance": {"first": 0, "heads": [[0.0, -1.0, -2.0], [0.0] * 3]}, "time": [[0.1 * n for n in range(29)]]}
        ],
        "time_from": [None, 0, *(1 << power for power in range(27))],
        "places": [[1.0, -1.0], [-1.0, 1.0]],
    }
    return {
        "steps": 16,
        "agreement": {"shoppers": 1_200, "fewest_slots": 5, "attention": 0.5, "recency": 0.4},
        "completeness": {"mean_difference": 2.0, "mean_error": 0.01},
        "shoppers": [shopper],
        "biases": biases,
    }


def test_products_are_ordered_by_the_size_of_their_contribution() -> None:
    (shopper,) = explanation(content(), SHELF).shoppers
    assert shopper.product == "Pot 9"
    assert [(slot.name, slot.note, slot.attribution) for slot in shopper.slots] == [
        ("Pot 2", "the newest", "−1.50"),
        ("Pot 1", "1 before the newest", "+1.00"),
        ("Pot 0", "2 before the newest", "+0.50"),
    ]
    assert [slot.against for slot in shopper.slots] == [True, False, False]
    assert [slot.attribution_width for slot in shopper.slots] == [100, 66.7, 33.3]
    assert {slot.attention for slot in shopper.slots} == {"33.3 %"}
    # 0.5 + 1 − 1.5.
    assert "would be 2.00: the products make +0.00" in shopper.summary


def test_what_is_not_shown_stands_in_one_line_so_that_it_adds_up() -> None:
    (shopper,) = explanation(content(9), SHELF).shoppers
    *shown, others = shopper.slots
    assert len(shown) == 6
    assert others.name == "The other 3 interactions"
    # 0.5 + 1 + 1.5, and three ninths of the attention.
    assert (others.attribution, others.attention) == ("+3.00", "33.3 %")


def test_agreement_is_told_beside_that_of_time_alone() -> None:
    told, missed = explanation(content(), SHELF).sentences
    assert "Over 1,200 shoppers with 5 interactions or more" in told
    assert "a Spearman correlation of +0.5000 on average; the order of time alone reaches +0.4000." in told
    assert "they miss by 0.5 % on average" in missed


def test_attention_that_tells_only_what_is_new_is_said_so() -> None:
    weak = content()
    weak["agreement"]["attention"] = 0.3
    assert "no more than what is new" in explanation(weak, SHELF).sentences[0]


def test_agreement_that_was_not_measured_is_said_so() -> None:
    short = content()
    short["agreement"] |= {"shoppers": 0, "attention": None, "recency": None}
    assert explanation(short, SHELF).sentences[0].startswith("Not measured: how far attention")


def test_biases_are_drawn_per_block_with_a_curve_per_head() -> None:
    distance, time, places = explanation(content(), SHELF).charts
    assert [chart.title for chart in (distance, time)] == [
        "Block 1: bias by distance",
        "Block 1: bias by the time between",
    ]
    # Two heads, each with its sample in the legend.
    assert distance.svg.count("<polyline") == 4
    assert "itself" in distance.svg
    assert "2 back" in distance.svg
    assert all(label in time.svg for label in ("1 s", "1 min", "1 h", "1 day", "1 year"))
    assert "data:image/png;base64," in places.svg


def test_a_day_stands_above_the_bucket_it_falls_into() -> None:
    time = explanation(content(), SHELF).charts[1].svg
    x = float(re.search(r'x="([\d.]+)"[^>]*>1 day', time).group(1))
    # 2¹⁶ ≤ 86,400 < 2¹⁷: the eighteenth of 28 known buckets, 0-based 17, between 46 and 288.
    assert x == pytest.approx(46 + 17 * (288 - 46) / 27, abs=0.1)


def test_distances_to_both_sides_have_their_own_labels() -> None:
    both = content()
    both["biases"]["blocks"][0] = {"distance": {"first": -2, "heads": [[0.0] * 5]}, "time": None}
    (chart, _) = explanation(both, SHELF).charts
    assert all(label in chart.svg for label in ("2 on", "itself", "1 back", "2 back"))


def test_curves_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"curves must be of one length, at least 1, received \[1, 2\]"):
        line_chart("bias", [Curve("a", [1.0]), Curve("b", [1.0, 2.0])], {})


def test_curve_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="values must be finite"):
        line_chart("bias", [Curve("a", [float("nan")])], {})


def test_labels_are_escaped() -> None:
    assert HOSTILE not in heat_map(HOSTILE, [[1.0]], HOSTILE, HOSTILE)
    assert HOSTILE not in line_chart(HOSTILE, [Curve(HOSTILE, [1.0])], {0: HOSTILE})


def test_page_shows_the_section(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", PRODUCTS, EXAMPLES)
    (run / "steps" / "evaluate" / "explanation.json").write_text(json.dumps(content()))
    page = page_of(run)
    assert page.open == []
    assert "Shopper 1: p9" in page.text
    assert "Red pot no. 1 1 before the newest 33.3 % +1.00" in page.text
    assert "What the ranker has learned of order and time" in page.text
    bars = [attributes["class"] for attributes in page.of("i") if attributes.get("class") in ("for", "against")]
    assert bars == ["against", "for", "for"]


def test_run_without_explanations_says_so(tmp_path: Path) -> None:
    text = page_of(write_run(tmp_path / "run", PRODUCTS, EXAMPLES)).text
    assert "Not measured: the evaluation left no explanation.json." in text
