"""Embedding quality on the report: every figure with its target and verdict, and the map of the catalogue."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.catalogue_map import CatalogueMap, Point, draw_map
from pipeline.charts import figure as short
from pipeline.embedding_quality import MEETS, MISSES, NOT_MEASURED
from pipeline.report_models import label, readable
from pipeline.report_tables import ABSENT, Cell, Row, Table, metric, share

_STAGES = {"retrieval": "retrieval", "ranker": "ranker", "two_stage": "two stages", "index": "index", "shop": "shop"}
_FIGURES = {
    "isotropy": "Isotropy, smallest over largest singular value",
    "mean_cosine": "Mean cosine of two products drawn at random",
    "category_agreement": "Ten nearest in the same leaf category",
    "drift": "Drift, mean 1 − cosine after alignment",
    "neighbour_overlap": "Ten nearest that stayed the same",
    "l2_per_dimension": "Drift, mean distance per dimension",
    "rare_ndcg@10": "NDCG@10 of rare products, whole catalogue",
    "rare_ndcg@10_among_themselves": "NDCG@10 of rare products, among themselves",
    "index_recall@100": "Recall@100",
    "index_build_seconds": "Built and tuned in, seconds",
    "revenue_per_impression": "Revenue per product recommended",
    "tail_revenue_share": "Recommended revenue outside the best sellers",
    "days_to_first_recommendation": "Days from listing to first recommendation",
}
_SHARES = ("category_agreement", "neighbour_overlap", "tail_revenue_share", "index_recall@100", "coverage@100")
_PLAIN = ("index_build_seconds", "revenue_per_impression", "days_to_first_recommendation")


@dataclass(frozen=True)
class Quality:
    """What the section shows; `summary` and its CSS class "good", "bad" or ""."""

    summary: str
    tone: str
    table: Table
    modalities: list[Table]
    map: CatalogueMap | None


def quality(measured: Mapping[str, Any], points: Sequence[Mapping[str, Any]]) -> Quality | None:
    """The section; None where nothing was measured.

    Args:
        measured: "embedding_quality" of metrics.json.
        points: content of map.json.
    """
    if not measured:
        return None
    verdicts = measured["verdicts"]
    rows = [Row(_name(found), _cells(found)) for found in verdicts]
    table = Table("Every figure with its target", ["Figure", "Value", "Target", "Verdict"], rows)
    summary, tone = _summary(verdicts)
    modalities = [table for stage in ("retrieval", "ranker") for table in _modality_tables(stage, measured[stage])]
    return Quality(summary, tone, table, modalities, draw_map([Point(**point) for point in points]))


def _modality_tables(stage: str, measured: Mapping[str, Any]) -> list[Table]:
    """What the vectors owe to each modality, by popularity and by category; none where there is the id alone."""
    found = measured.get("modalities")
    if not found or len(found["overall"]) < 2:
        return []
    groups = {"All products": found["overall"], **found["by_popularity"], **found["by_category"]}
    heads = ["Products", *(readable(name) for name in found["overall"])]

    def row(name: str, shares: Mapping[str, float]) -> Row:
        number = f" ({found['products'][name]:,})" if name in found["products"] else ""
        return Row(f"{readable(name)}{number}", [Cell(share(value)) for value in shares.values()])

    caption = f"What the vectors of the {stage} owe to what is known of a product"
    return [Table(caption, heads, [row(name, shares) for name, shares in groups.items()])]


def _summary(verdicts: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """How many targets are met, and which are not."""
    judged = [found for found in verdicts if found["verdict"] in (MEETS, MISSES)]
    missed = [_name(found) for found in judged if found["verdict"] == MISSES]
    skipped = sum(bool(found["target"]) and found["verdict"] == NOT_MEASURED for found in verdicts)
    rest = f" {skipped} could not be measured here, for the reasons below." if skipped else ""
    met = f"{len(judged) - len(missed)} of {len(judged)} measured targets are met."
    if missed:
        return f"{met} Missed: {'; '.join(missed)}.{rest}", "bad"
    return f"{met}{rest}", "good" if judged else ""


def _name(found: Mapping[str, Any]) -> str:
    stage = _STAGES.get(found["stage"], found["stage"])
    return f"{_FIGURES.get(found['figure'], label(found['figure']))} ({stage})"


def _cells(found: Mapping[str, Any]) -> list[Cell]:
    value = _written(found["figure"], found["value"])
    return [Cell(value, found["note"]), Cell(found["target"] or ABSENT), Cell(found["verdict"])]


def _written(name: str, value: float | None) -> str:
    if value is None:
        return ABSENT
    if name in _SHARES:
        return share(value)
    return short(value, abs(value)) if name in _PLAIN else metric(value)
