"""Embedding quality: every figure that tells whether the vectors are good ones, with its target and a plain verdict."""

import json
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.catalogue_map import MAP_FILE, write_map
from transform.attributed_sales import read_attributed_sales
from transform.clock import HOUR
from transform.config import TransformConfig

MEASURED_FILE = "embedding_quality.json"
MEETS, MISSES, NOT_MEASURED, NO_TARGET = "meets", "misses", "not measured", "no target"
_COMPARISONS: dict[str, Callable[[float, float], Any]] = {
    ">": operator.gt,
    "<": operator.lt,
    "≥": operator.ge,
    "≤": operator.le,
}


@dataclass(frozen=True)
class Target:
    """What a figure should be."""

    comparison: str
    bound: float

    def met(self, value: float) -> bool:
        """Whether the value keeps it."""
        return bool(_COMPARISONS[self.comparison](value, self.bound))

    def __str__(self) -> str:
        return f"{self.comparison} {self.bound:g}"


# The published targets for product embeddings, each in this one place. Isotropy and category agreement pull against
# each other: vectors that gather by category leave directions unused.
TARGETS = {
    "isotropy": Target(">", 0.3),
    "mean_cosine": Target("<", 0.1),
    "category_agreement": Target(">", 0.6),
    # Between consecutive trainings.
    "drift": Target("≤", 0.05),
    "neighbour_overlap": Target("≥", 0.8),
    # Not published: what the export promises of its index.
    "index_recall@100": Target("≥", 0.98),
}
_LIST_FIGURES = ("coverage@100", "novelty@10", "diversity@10")
_SYSTEMS = ("retrieval", "two_stage")


@dataclass(frozen=True)
class Verdict:
    """A figure and what to think of it; "stage" says whose it is."""

    figure: str
    stage: str
    value: float | None
    target: str
    verdict: str
    # Why it was not measured, or what the figure is to be read beside.
    note: str = ""


def write_embedding_quality(
    data: Path, transform_dir: Path, retrieval_dir: Path, ranker_dir: Path, output: Path, config: TransformConfig
) -> None:
    """Measures what no other step does: writes output/embedding_quality.json and output/map.json.

    Args:
        data: canonical tables, for what recommendations sold.
        transform_dir: output of the transform.
        retrieval_dir: trained retrieval model.
        ranker_dir: trained ranker.
        output: an existing folder.
        config: of the transform, for its rules about events.
    """
    # Loads the models; the verdicts are of use without them.
    from trainer.data import load_catalogue
    from trainer.embedding_quality import measure_embeddings

    catalogue = load_catalogue(transform_dir)
    found = measure_embeddings(catalogue, retrieval_dir, ranker_dir)
    sales = read_attributed_sales(data, HOUR * config.max_future_hours)
    measured = {
        stage: asdict(geometry) | {"modalities": asdict(found.modalities[stage])}
        for stage, geometry in found.geometry.items()
    } | {"sales": asdict(sales)}
    text = json.dumps(measured, indent=2, allow_nan=False)
    (output / MEASURED_FILE).write_text(text, encoding="utf-8")
    write_map(output / MAP_FILE, catalogue, found.map_rows, found.map_points)


def embedding_quality(
    measured: Mapping[str, Any], metrics: Mapping[str, Any], drift: Mapping[str, Any], warm_start: str
) -> dict[str, Any]:
    """ "embedding_quality" of metrics.json: what was measured, with a verdict for each figure.

    Args:
        measured: content of embedding_quality.json.
        metrics: the rest of metrics.json, for what evaluation and export measured.
        drift: stage → content of drift.json, where the training left one.
        warm_start: the earlier run that the trainings started from; "" = none.
    """
    verdicts = [
        *(verdict for stage in ("retrieval", "ranker") for verdict in _of_vectors(stage, measured[stage])),
        *(verdict for stage in ("retrieval", "ranker") for verdict in _of_drift(stage, drift.get(stage), warm_start)),
        *_of_lists(metrics),
        *_of_rare_products((metrics.get("cold_start") or {}).get("rare_products") or {}),
        _judged("index_recall@100", "index", metrics["index"]["recall@100"]),
        _judged("index_build_seconds", "index", metrics["index"]["build_seconds"]),
        *_of_sales(measured["sales"]),
    ]
    return {**measured, "drift": dict(drift), "verdicts": [asdict(verdict) for verdict in verdicts]}


def _judged(figure: str, stage: str, value: float | None, reason: str = "", note: str = "") -> Verdict:
    """The verdict on one figure.

    Args:
        figure: its name.
        stage: whose it is.
        value: None = not measured, for the `reason`.
        reason: why it was not measured.
        note: what it is to be read beside, where it was.
    """
    target = TARGETS.get(figure)
    if value is None:
        return Verdict(figure, stage, None, str(target or ""), NOT_MEASURED, reason)
    if target is None:
        return Verdict(figure, stage, value, "", NO_TARGET, note)
    return Verdict(figure, stage, value, str(target), MEETS if target.met(value) else MISSES, note)


def _of_vectors(stage: str, geometry: Mapping[str, Any]) -> Iterator[Verdict]:
    reasons, agreement = geometry["reasons"], geometry["category_agreement"]
    pull = "pulls against category agreement: vectors that gather by category leave directions unused"
    yield _judged("isotropy", stage, geometry["isotropy"], reasons.get("isotropy", ""), pull)
    yield _judged("mean_cosine", stage, geometry["mean_cosine"], reasons.get("mean_cosine", ""))
    if agreement is None:
        yield _judged("category_agreement", stage, None, reasons["category_agreement"])
        return
    note = f"chance {agreement['chance']:.1%}, at most {agreement['attainable']:.1%}; pulls against isotropy"
    yield _judged("category_agreement", stage, agreement["share"], note=note.replace("%", " %"))


def _of_drift(stage: str, drift: Mapping[str, Any] | None, warm_start: str) -> Iterator[Verdict]:
    missing = (
        f"the earlier run {warm_start} has fewer than two products in common with this one"
        if warm_start
        else "no earlier run: the training started from scratch (warm_start names none)"
    )
    found = drift or {}
    note = f"of {found['items']:,} products that both trainings know" if found else ""
    yield _judged("drift", stage, found.get("mean_cosine_distance"), missing, note)
    yield _judged("neighbour_overlap", stage, found.get("neighbour_overlap"), missing)
    yield _judged("l2_per_dimension", stage, found.get("mean_l2_per_dimension"), missing)


def _of_lists(metrics: Mapping[str, Any]) -> Iterator[Verdict]:
    for figure in _LIST_FIGURES:
        for system in _SYSTEMS:
            value = (metrics.get(system) or {}).get(figure)
            yield _judged(figure, system, value, "the evaluation could not define it on this catalogue")


def _of_rare_products(rare: Mapping[str, Any]) -> Iterator[Verdict]:
    """NDCG@10 of products with few interactions in training, in the whole catalogue and among them alone."""
    reason = "no shopper chose a product that is rare in training"
    if not rare:
        reason = "an older version made the evaluation: delete RUN/steps/evaluate and run `tandem run` again"
    for system in _SYSTEMS:
        everything = rare.get(system) or {}
        among = everything.get("among_themselves") or {}
        for figure, found in (("rare_ndcg@10", everything), ("rare_ndcg@10_among_themselves", among)):
            low, high = (found.get("intervals") or {}).get("ndcg@10") or (0.0, 0.0)
            note = f"95 % interval {low:.4f} to {high:.4f}; {rare.get('truth', 0):,} such products chosen"
            yield _judged(figure, system, found.get("ndcg@10"), reason, note)


def _of_sales(sales: Mapping[str, Any]) -> Iterator[Verdict]:
    reasons = sales["reasons"]
    if sales["versions"] is None:
        yield _judged("revenue_per_impression", "shop", None, reasons["versions"])
    for version, found in (sales["versions"] or {}).items():
        note = f"{found['purchases']:,} order lines after {found['impressions']:,} products shown"
        yield _judged("revenue_per_impression", f"version {version}", found["revenue_per_impression"], note=note)
    tail = sales["tail_revenue_share"]
    yield _judged("tail_revenue_share", "shop", tail, reasons.get("tail_revenue_share", ""))
    shown = sales["days_to_first_recommendation"]
    figure = "days_to_first_recommendation"
    if shown is None:
        yield _judged(figure, "shop", None, reasons[figure])
        return
    note = f"median of {shown['recommended']:,} recommended of {shown['listed']:,} newly listed products"
    yield _judged(figure, "shop", shown["median_days"], note=note)
