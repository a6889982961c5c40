"""Verdicts on embedding quality, and how metrics.json gets them."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.chain import assemble_metrics
from pipeline.embedding_quality import TARGETS, embedding_quality
from tests.pipeline.measured_run import lists, measured_without_quality, quality_measured


def verdicts(
    measured: dict[str, Any] | None = None, drift: dict[str, Any] | None = None, warm_start: str = ""
) -> dict[tuple[str, str], dict[str, Any]]:
    """(figure, stage) → verdict."""
    found = embedding_quality(measured or quality_measured(), measured_without_quality(), drift or {}, warm_start)
    return {(verdict["figure"], verdict["stage"]): verdict for verdict in found["verdicts"]}


@pytest.mark.parametrize(
    ("figure", "met", "missed"),
    [
        ("isotropy", 0.31, 0.3),
        ("mean_cosine", 0.09, 0.1),
        ("category_agreement", 0.61, 0.6),
        ("drift", 0.05, 0.051),
        ("neighbour_overlap", 0.8, 0.79),
    ],
)
def test_targets_are_the_published_ones(figure: str, met: float, missed: float) -> None:
    assert TARGETS[figure].met(met)
    assert not TARGETS[figure].met(missed)


def test_each_stage_has_its_verdict_and_isotropy_is_told_beside_category_agreement() -> None:
    found = verdicts()
    assert found["isotropy", "retrieval"]["verdict"] == "misses"
    assert found["isotropy", "ranker"]["verdict"] == "meets"
    assert found["isotropy", "ranker"]["target"] == "> 0.3"
    assert "pulls against category agreement" in found["isotropy", "retrieval"]["note"]
    agreement = found["category_agreement", "retrieval"]
    assert (agreement["value"], agreement["verdict"]) == (0.7, "meets")
    assert agreement["note"] == "chance 10.0 %, at most 90.0 %; pulls against isotropy"


def test_figure_that_is_not_defined_has_its_reason() -> None:
    measured = quality_measured()
    measured["ranker"] |= {"category_agreement": None, "reasons": {"category_agreement": "no categories"}}
    found = verdicts(measured)["category_agreement", "ranker"]
    assert found == {
        "figure": "category_agreement",
        "stage": "ranker",
        "value": None,
        "target": "> 0.6",
        "verdict": "not measured",
        "note": "no categories",
    }


def test_run_without_an_earlier_one_says_so() -> None:
    found = verdicts()["drift", "retrieval"]
    assert found["verdict"] == "not measured"
    assert found["note"].startswith("no earlier run")


def test_drift_is_judged_stage_by_stage() -> None:
    moved = {"items": 900, "mean_cosine_distance": 0.04, "mean_l2_per_dimension": 0.004, "neighbour_overlap": 0.7}
    found = verdicts(drift={"retrieval": moved}, warm_start="runs/monday")
    assert found["drift", "retrieval"]["verdict"] == "meets"
    assert found["drift", "retrieval"]["note"] == "of 900 products that both trainings know"
    assert found["neighbour_overlap", "retrieval"]["verdict"] == "misses"
    assert found["l2_per_dimension", "retrieval"]["verdict"] == "no target"
    assert found["drift", "ranker"]["note"].startswith("the earlier run runs/monday has fewer than two products")


def test_what_evaluation_and_export_measured_is_taken_over() -> None:
    found = verdicts()
    assert found["coverage@100", "two_stage"]["value"] == 0.5
    assert found["novelty@10", "two_stage"]["verdict"] == "not measured"
    rare = found["rare_ndcg@10_among_themselves", "retrieval"]
    assert (rare["value"], rare["note"]) == (0.3, "95 % interval 0.1500 to 0.4500; 60 such products chosen")
    assert found["index_recall@100", "index"]["verdict"] == "meets"
    assert found["index_build_seconds", "index"]["value"] == 2.5


def test_what_the_logs_do_not_tell_is_not_measured() -> None:
    found = verdicts()
    for figure in ("revenue_per_impression", "tail_revenue_share", "days_to_first_recommendation"):
        assert found[figure, "shop"]["verdict"] == "not measured"
        assert found[figure, "shop"]["note"] == "not in the logs: no token"


def test_each_version_has_its_revenue_per_impression() -> None:
    measured = quality_measured()
    sold = {"impressions": 200, "purchases": 3, "revenue": 60.0, "revenue_per_impression": 0.3}
    shown = {"listed": 9, "recommended": 4, "median_days": 1.5}
    measured["sales"] |= {
        "versions": {"7": sold},
        "tail_revenue_share": 0.25,
        "days_to_first_recommendation": shown,
        "reasons": {},
    }
    found = verdicts(measured)
    assert found["revenue_per_impression", "version 7"]["value"] == 0.3
    assert found["revenue_per_impression", "version 7"]["note"] == "3 order lines after 200 products shown"
    assert found["tail_revenue_share", "shop"]["value"] == 0.25
    assert "4 recommended of 9" in found["days_to_first_recommendation", "shop"]["note"]


def test_metrics_hold_the_quality_of_all_steps(tmp_path: Path) -> None:
    measured = measured_without_quality()
    measured["index"]["portable"] = {"kind": "portable", "recall@100": 0.98, "ms_per_query": 1.25}
    moved = {"items": 2, "mean_cosine_distance": 0.2, "mean_l2_per_dimension": 0.1, "neighbour_overlap": 1.0}
    files = {
        "steps/evaluate/metrics.json": {key: value for key, value in measured.items() if key not in ("head", "index")},
        "steps/validate/summary.json": {"stop": 0, "warn": 0},
        "steps/validate/anomalies.json": [],
        "steps/train-head/head.json": measured["head"],
        "steps/train-ranker/drift.json": moved,
        "steps/export/index.json": measured["index"],
        "steps/export/lists.json": lists(),
        "steps/embedding-quality/embedding_quality.json": quality_measured(),
        "config.json": {"name": "Pots", "warm_start": "runs/monday"},
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    metrics = json.loads(assemble_metrics(tmp_path).read_text())
    assert metrics["index"] == measured["index"]
    quality = metrics["embedding_quality"]
    assert quality["drift"] == {"ranker": moved}
    assert quality["retrieval"]["isotropy"] == 0.2
    judged = {(found["figure"], found["stage"]): found["verdict"] for found in quality["verdicts"]}
    assert judged["drift", "ranker"] == "misses"
    assert judged["drift", "retrieval"] == "not measured"
