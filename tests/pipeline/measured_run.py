"""A run folder as the steps leave it, with made-up figures: what a report is written from."""

import json
from pathlib import Path
from typing import Any

import tensorflow as tf

from pipeline.embedding_quality import embedding_quality
from protos.feature_schema_pb2 import FeatureSchema
from transform.feature_schema import write_schema

HOSTILE = "<script>alert('hi')</script>"
PRODUCTS = [
    {"item_id": f"p{number}", "title": f"Red pot no. {number}", "category": "Kitchen > Pots", "price": 10.0 + number}
    for number in range(8)
]
EXAMPLES = [
    {
        "user_id": f"u{shopper}",
        "history": ["p0", "p1"],
        "recommended": ["p2", "p3", "p4"],
        "truth": ["p3", "p7"],
    }
    for shopper in range(5)
]


def measured(ndcg: float, recall: float) -> dict[str, Any]:
    """One model's figures, ± 10 % as its interval."""
    figures = {"ndcg@10": ndcg, "recall@10": recall, "recall@100": 2 * recall, "hit_rate@10": 3 * recall, "mrr": ndcg}
    return {
        **figures,
        "coverage@100": 0.5,
        "gini@10": 0.75,
        "popularity@10": 0.00123,
        "head_share@10": 0.7,
        "new_share@10": 0.3,
        "map@10": None,
        "intervals": {name: [0.9 * value, 1.1 * value] for name, value in figures.items()},
        "segments": {
            "history_length": {
                "1-4": {"queries": 200, "ndcg@10": 0.5 * ndcg},
                "5-19": {"queries": 800, "ndcg@10": 1.2 * ndcg},
                "20-99": {"queries": 0},
            }
        },
    }


def fairness(ndcg: float) -> dict[str, Any]:
    """One model's groups: the north is served better than the south beyond chance, the isles are too few."""

    def group(factor: float) -> dict[str, Any]:
        value = factor * ndcg
        return {"queries": 400, "judged": True, "ndcg@10": value, "recall@10": value, "intervals": ends(value)}

    def ends(value: float) -> dict[str, list[float]]:
        return {name: [0.9 * value, 1.1 * value] for name in ("ndcg@10", "recall@10")}

    gap = {"best": "north", "worst": "south", "gap": 0.5 * ndcg, "interval": [0.4 * ndcg, 0.6 * ndcg]}
    gap |= {"outside_chance": True, "pairs": 1, "pairs_outside_chance": 1}
    small = {"queries": 20, "judged": False, "ndcg@10": 0.0, "recall@10": 0.0}
    return {
        "region": {
            "groups": {"north": group(1.2), "south": group(0.7), "isles": small},
            "gaps": {"ndcg@10": gap, "recall@10": gap},
        },
        "history_length": {"groups": {"1-4": group(1.0)}, "gaps": {}},
    }


def head() -> dict[str, Any]:
    """The candidate head without its price is the best order."""

    def figures(ndcg: float) -> dict[str, float]:
        return {"ndcg@10": ndcg, "difference_from_ranker": ndcg - 0.3, "standard_error": 0.0012}

    orders = {"ranker": 0.3, "blend": 0.31, "head": 0.33, "head without price": 0.34}
    return {
        "kept": "head without price",
        "shoppers": 4_000,
        "retrieval": figures(0.25),
        "out_of_fold": {name: figures(ndcg) for name, ndcg in orders.items()},
    }


def quality_measured() -> dict[str, Any]:
    """What the embedding-quality step writes: vectors that gather by category, and no recommendations in the logs."""
    reason = "not in the logs: no token"
    figures = ("versions", "tail_revenue_share", "days_to_first_recommendation")

    def stage(isotropy: float) -> dict[str, Any]:
        agreement = {"products": 8, "queries": 8, "share": 0.7, "chance": 0.1, "attainable": 0.9}
        found = {"products": 8, "dim": 4, "isotropy": isotropy, "mean_cosine": 0.05, "category_agreement": agreement}
        shares = {"id": 0.6, "title": 0.4}
        modalities = {"overall": shares, "by_popularity": {"new": {"id": 0.0, "title": 1.0}}}
        modalities |= {"by_category": {"Pans": shares}, "products": {"new": 2, "Pans": 6}}
        return {**found, "reasons": {}, "modalities": modalities}

    sales = {**dict.fromkeys(figures), "unpriced": 0, "reasons": dict.fromkeys(figures, reason)}
    return {"retrieval": stage(0.2), "ranker": stage(0.4), "sales": sales}


def rare_products() -> dict[str, Any]:
    """Products that are rare in training, found worse than others, better among themselves."""

    def figures(ndcg: float) -> dict[str, Any]:
        return {"queries": 30, "ndcg@10": ndcg, "intervals": {"ndcg@10": [0.5 * ndcg, 1.5 * ndcg]}}

    system = {**figures(0.02), "truth": 60, "recall@10": 0.03, "among_themselves": figures(0.3)}
    found = {"below": 5, "products": 3, "truth": 60, "truth_share": 0.05}
    return {**found, "retrieval": system, "two_stage": system, "baselines": {}}


def metrics() -> dict[str, Any]:
    """RUN/metrics.json: two stages find 2.5 times what popularity finds, and more than co-occurrence."""
    measured = measured_without_quality()
    return {**measured, "embedding_quality": embedding_quality(quality_measured(), measured, {}, "")}


def measured_without_quality() -> dict[str, Any]:
    """What the verdicts on embedding quality are told beside."""
    protocol = {"split": "time", "exclude_seen": False, "n_queries": 1_000, "refit": False}
    new = {"queries": 40, "truth": 50, "recall@10": 0.01, "ndcg@10": 0.005}
    return {
        "dataset": {"name": "Pots & Pans", "protocol": protocol},
        "queries": 1_000,
        "two_stage": measured(0.2, 0.25),
        "ranker": measured(0.19, 0.24),
        "retrieval": measured(0.15, 0.2),
        "baselines": {"recent_popularity": measured(0.08, 0.1), "co_occurrence": measured(0.12, 0.15)},
        "differences": {
            "recent_popularity": {"ndcg@10": {"difference": 0.12, "interval": [0.1, 0.14]}},
            "co_occurrence": {"ndcg@10": {"difference": 0.08, "interval": [0.06, 0.1]}},
        },
        "attainable": measured(0.4, 0.5),
        "popularity_classes": {"candidates": {"head": 0.1, "new": 0.2}, "truth": {"head": 0.45, "new": 0.05}},
        "fairness": {
            "minimum_queries": 100,
            "two_stage": fairness(0.2),
            "baselines": {"co_occurrence": fairness(0.12)},
        },
        "protocols": {"exclude_seen=true": {"queries": 900, "two_stage": measured(0.1, 0.2), "baselines": {}}},
        "cold_start": {
            "new_products": {"truth": 50, "truth_share": 0.02, "two_stage": new, "baselines": {"co_occurrence": new}},
            "rare_products": rare_products(),
            "new_visitors": {"queries": 77, "two_stage": measured(0.05, 0.06), "baselines": {}},
        },
        "head": head(),
        "index": {
            "kind": "scann",
            "recall@100": 0.9912,
            "ms_per_query": 0.8,
            "ms_per_query_brute_force": 1.9,
            "build_seconds": 2.5,
            "n": 1_234,
            "settings": {"leaves": 40, "leaves_to_search": 7},
        },
    }


def lists() -> dict[str, Any]:
    """What the export says of its lists: by region is better, blends find more, one product with its lists."""
    found = [{"behaviour_share": weight, "found": value} for weight, value in ((0.0, 0.1), (0.5, 0.3), (1.0, 0.2))]
    chosen = {"by": ["region"], "strength": 100.0}
    spans = {span: {"visitors": 300, "overall": 0.01, "by_segment": 0.05} for span in ("validation", "test")}
    beside = {"behaviour_share": 0.5, "neighbours": 20, "products_with_neighbours": 6}
    beside |= {"validation": {"pairs": 4_000, "found": found}}
    return {
        "new_visitors": {"chosen": chosen, "best": chosen | {"gain": 0.04, "standard_error": 0.01}, **spans},
        "similar_items": beside,
        "complementary_items": beside,
        "examples": [{"item_id": "p5", "similar": ["p6", "p7"], "complementary": ["p1", "p0"]}],
    }


def write_run(run: Path, products: list[dict[str, Any]], examples: list[dict[str, Any]] | None) -> Path:
    """Writes a whole run below `run`; products without a picture unless they have an "image"."""
    _write_json(run / "metrics.json", metrics())
    transform = run / "steps" / "transform"
    _write_json(transform / "statistics.json", _statistics(products))
    _write_items(transform, products)
    summary = {"examples": {"train": 5_000, "items": 8}, "stop": 0, "warn": 0, "schema": "RUN/schema"}
    summary["drift"] = {"validation": {"device": 0.01}, "test": {"device": 0.02, "type": 0.03}}
    _write_json(run / "steps" / "validate" / "summary.json", summary)
    _write_json(run / "steps" / "validate" / "anomalies.json", [])
    for step in ("train-retrieval", "train-ranker"):
        epochs = [{"epoch": 1, "loss": 6.5, "validation_ndcg": 0.1, "seconds": 40.0}]
        epochs += [{"epoch": 2, "loss": 5.9, "validation_ndcg": 0.14, "seconds": 38.0}]
        epochs += [{"epoch": 3, "loss": 5.7, "validation_ndcg": 0.13, "seconds": 38.0}]
        _write_json(run / "steps" / step / "history.json", epochs)
        record = {"step": step, "fingerprint": "0123456789abcdef", "seconds": 116.0, "config": {"ranker": {"dim": 64}}}
        _write_json(run / "steps" / step / "step.json", record)
    points = [
        {"x": 0.1 * place, "y": 0.5, "title": product.get("title", ""), "category": product.get("category", "")}
        for place, product in enumerate(products)
    ]
    _write_json(run / "steps" / "embedding-quality" / "map.json", points)
    if examples is not None:
        _write_json(run / "steps" / "evaluate" / "examples.json", examples)
    return run


def _statistics(products: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "rows_read": 50_000,
        "rejected": {"timestamp in the future": 12},
        "items_faults": {"zero_price": 7},
        "duplicates": 40,
        "interactions": 30_000,
        "users": 2_000,
        "items_catalogue": len(products),
        "items_in_events": 6,
        "items_only_in_events": 1,
        "id_embedding_rows": 2 + len(products),
        "has_timestamps": True,
        "first_timestamp": 1_700_000_000,
        "last_timestamp": 1_705_000_000,
        "split": {"method": "time", "validation_start": 1_704_000_000, "test_start": 1_704_500_000},
        "spans": {"train": {"interactions": 24_000, "users": 1_900}},
        "event_types": {"view": 40_000, "purchase": 2_000},
    }


def _write_items(transform: Path, products: list[dict[str, Any]]) -> None:
    write_schema(transform, FeatureSchema(catalogue_size=2 + len(products), id_embedding_size=2, has_timestamps=True))
    with tf.io.TFRecordWriter(str(transform / "items-00000-of-00001.tfrecord")) as writer:
        for row, product in enumerate(products, start=2):
            writer.write(_example(row, product).SerializeToString())


def _example(row: int, product: dict[str, Any]) -> tf.train.Example:
    features = {
        "item_id": _bytes(product["item_id"].encode()),
        "row": _int64(row),
        "id_row": _int64(1),
        "train_count": _int64(row),
        "known_from": _int64(0),
        "available": _int64(1),
        "title": _bytes(*filter(None, [product.get("title", "").encode()])),
        "category": _bytes(*filter(None, [product.get("category", "").encode()])),
        "image": _bytes(*filter(None, [product.get("image", b"")])),
        "price_raw": tf.train.Feature(
            float_list=tf.train.FloatList(value=[product["price"]] if "price" in product else [])
        ),
    }
    return tf.train.Example(features=tf.train.Features(feature=features))


def _bytes(*values: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))


def _int64(value: int) -> tf.train.Feature:
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
