"""The candidate head on the report: what each order of the candidates was worth, and what each part of it gives."""

from collections.abc import Mapping
from typing import Any

from pipeline.report_models import HEADLINE
from pipeline.report_tables import Cell, Row, Table, count, metric, signed

_NAMES = {"ranker": "The ranker's order", "blend": "Ranker and retrieval, blended", "head": "Head, all parts"}


def head_table(head: Mapping[str, Any]) -> Table | None:
    """Orders of the same candidates on validation, out of fold, the one that is served marked; None without a head.

    Args:
        head: "head" of metrics.json.
    """
    if not head:
        return None
    caption = (
        f"Stage two's order of {count(head['shoppers'])} shoppers' candidates on validation, each judged by a head "
        "fitted to other shoppers; the order that is served is marked"
    )
    orders = {"retrieval": head["retrieval"], **head["out_of_fold"]}
    rows = [
        Row(
            _NAMES.get(name, name.capitalize()),
            [
                Cell(metric(figures[HEADLINE]), best=name == head["kept"]),
                Cell(signed(figures["difference_from_ranker"]), f"± {figures['standard_error']:.4f}"),
            ],
            "plain" if name == "retrieval" else "",
        )
        for name, figures in orders.items()
    ]
    return Table(caption, ["Order", "NDCG@10", "Against the ranker's order, ± standard error"], rows)
