"""Measures both stages, alone and together, beside the baselines on the held-out future; writes metrics.json."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from scipy import sparse

from trainer.baseline_selection import POPULARITY, Baselines, fit_baselines
from trainer.candidate_head import load_head
from trainer.cold_start import OTHER_CATEGORY, cold_start_report, other_category_report, product_groups
from trainer.config import EvaluationConfig
from trainer.data import Catalogue, Sequences, load_catalogue, load_sequences
from trainer.explanation_report import explanation_report
from trainer.fairness import MINIMUM_QUERIES, fairness_report
from trainer.metrics import LIST_LENGTH, content_vectors
from trainer.propensity import estimate_propensities, load_position_counts
from trainer.protocol_report import (
    ATTAINABLE,
    arranged,
    attainable_shares,
    protocol_report,
    segment_report,
)
from trainer.queries import Queries, Span, Split, build_queries, build_rolling_queries, load_split, sample_users
from trainer.rank_systems import RANKER, RETRIEVAL, TWO_STAGE, Protocol, rank_systems
from trainer.ranker import load_ranker
from trainer.retrieval import load_retrieval
from trainer.scorers import HeadScorer, Oracle, OracleScorer, RankerScorer, RetrievalScorer, Scorer, block_size
from trainer.segments import groupings
from transform.feature_schema import VOCABULARY_FOLDER, read_vocabulary

_EXAMPLES = 5
# Interactions that make a shopper an example worth showing.
_EXAMPLE_HISTORY = 3


class EvaluationError(ValueError):
    """Data on which nothing can be measured."""


@dataclass(frozen=True)
class Shop:
    """What every protocol reads."""

    catalogue: Catalogue
    sequences: Sequences
    split: Split
    content: sparse.csr_matrix | None
    config: EvaluationConfig
    # Of requests: "device", "region" → values by id; empty where the data has none.
    context_names: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def queries(self, span: Span, *, new_visitors: bool = False) -> Queries:
        """Queries under the headline's rule for seen products. A model's scorer takes its own history length."""
        return build_queries(
            self.sequences, self.catalogue, self.split, span, self.config, 1, new_visitors=new_visitors
        )

    def report(self, protocol: Protocol, baselines: Baselines) -> dict[str, Any]:
        """The figures of one protocol, with the settings of its baselines."""
        report = protocol_report(protocol, self.catalogue, self.content, self.config)
        for name, settings in baselines.settings.items():
            report["baselines"][name]["settings"] = settings
        return report


def evaluate(
    transform_dir: Path,
    retrieval_dir: Path,
    ranker_dir: Path,
    head_dir: Path,
    output: Path,
    config: EvaluationConfig,
    log_dir: Path,
    oracle: Oracle | None = None,
) -> None:
    """Writes output/metrics.json, output/examples.json, output/explanation.json and TensorBoard scalars.

    The models and baselines were fitted to the training span alone and are not refitted on the validation span; the
    histories of the test queries do reach up to the test's cut-off.

    Args:
        transform_dir: output of `tandem transform`.
        retrieval_dir: output of `tandem train-retrieval`.
        ranker_dir: output of `tandem train-ranker`.
        head_dir: output of `tandem train-head`.
        output: an existing folder.
        config: protocols and cut-offs.
        log_dir: for TensorBoard.
        oracle: the truth of a simulated shop, for the best attainable ranking.

    Raises:
        EvaluationError: no shopper can be asked anything.
    """
    shop = load_shop(transform_dir, config)
    catalogue = shop.catalogue
    block = block_size(catalogue.size)
    ranker = load_ranker(ranker_dir, catalogue)
    models: dict[str, Scorer] = {
        RETRIEVAL: RetrievalScorer(load_retrieval(retrieval_dir, catalogue), block),
        RANKER: RankerScorer(ranker, block),
    }
    head = HeadScorer(load_head(head_dir, catalogue), ranker, catalogue, block)
    statistics = json.loads((transform_dir / "statistics.json").read_text(encoding="utf-8"))
    metrics, examples = measure(shop, models, oracle, head)
    metrics["dataset"] = {**_facts(statistics), **metrics["dataset"]}
    # How much each position of the shop's lists is looked at; empty where events tell no position.
    metrics["propensities"] = estimate_propensities(load_position_counts(transform_dir)).table()
    _write(output / "metrics.json", metrics)
    _write(output / "examples.json", examples)
    asked, _ = _rules(shop)
    explained = explanation_report(ranker, models[RANKER], catalogue, asked[0], examples, config)
    _write(output / "explanation.json", explained)
    _write_scalars(log_dir, metrics)


def load_shop(transform_dir: Path, config: EvaluationConfig) -> Shop:
    """What `tandem transform` left, as evaluation reads it."""
    catalogue = load_catalogue(transform_dir)
    names = {
        feature.name: read_vocabulary(transform_dir / VOCABULARY_FOLDER / feature.vocabulary)
        for feature in catalogue.schema.context
    }
    sequences, split = load_sequences(transform_dir), load_split(transform_dir)
    return Shop(catalogue, sequences, split, content_vectors(catalogue), config, names)


def measure(
    shop: Shop, models: Mapping[str, Scorer], oracle: Oracle | None = None, head: HeadScorer | None = None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Everything that metrics.json and examples.json say.

    Args:
        shop: data and configuration.
        models: scorers by name: "retrieval", "ranker".
        oracle: as in `evaluate`.
        head: orders the candidates of both stages together; without one they stand in the ranker's order.

    Raises:
        EvaluationError: no shopper can be asked anything.
    """
    asked, validations = _rules(shop)
    fitted = fit_baselines(shop.sequences, shop.catalogue, shop.split, shop.config, validations)
    block, candidates = block_size(shop.catalogue.size), shop.config.candidates
    own: dict[str, Scorer] = {**models, ATTAINABLE: OracleScorer(oracle)} if oracle else dict(models)
    systems = [(queries, {**own, **baselines.scorers}) for queries, baselines in zip(asked, fitted, strict=True)]

    groups = product_groups(shop.catalogue, None)
    headline, *others = rank_systems("test", systems, candidates, block, head, groups)
    metrics = {"dataset": {"protocol": _protocol(shop, asked[0])}, **shop.report(headline, fitted[0])}
    attributes = groupings(headline.queries, shop.catalogue, shop.context_names)
    for system, segments in segment_report(headline, attributes).items():
        _figures(metrics, system)["segments"] = segments
    fairness = fairness_report(headline, attributes, shop.config)
    metrics["fairness"] = {"minimum_queries": MINIMUM_QUERIES, **arranged(fairness)}
    if oracle:
        metrics[ATTAINABLE]["shares"] = attainable_shares(metrics)
    metrics["cold_start"] = cold_start_report(headline, shop.catalogue, groups, shop.config)
    metrics["protocols"] = {
        f"exclude_seen={str(protocol.queries.exclude_seen).lower()}": shop.report(protocol, baselines)
        for protocol, baselines in zip(others, fitted[1:], strict=True)
    }

    # The oracle knows the next choice at a cut-off, not what a session under way has told already.
    scorers = {**models, **fitted[0].scorers}
    visitors = shop.queries("test", new_visitors=True)
    if len(visitors):
        (ranked,) = rank_systems("new visitors", [(visitors, scorers)], candidates, block, head)
        metrics["cold_start"]["new_visitors"] = shop.report(ranked, fitted[0])
    if shop.split.method == "time" and shop.config.rolling_users:
        rolling = build_rolling_queries(shop.sequences, shop.catalogue, shop.split, "test", shop.config, 1)
        if len(rolling):
            groups = product_groups(shop.catalogue, shop.split.test_start)
            (ranked,) = rank_systems("rolling next", [(rolling, scorers)], candidates, block, head, groups)
            metrics["protocols"]["rolling_next"] = shop.report(ranked, fitted[0])
            # A product is a candidate from its first appearance on, so that those listed after the cut-off are asked.
            metrics["cold_start"]["rolling_next"] = {
                **cold_start_report(ranked, shop.catalogue, groups, shop.config),
                OTHER_CATEGORY: other_category_report(ranked, shop.catalogue, shop.config),
            }
    return metrics, _examples(headline, shop)


def _rules(shop: Shop) -> tuple[list[Queries], list[Queries]]:
    """Test and validation queries under the headline's rule for seen products, then, for a time split, the other's.

    Raises:
        EvaluationError: nobody can be asked under the headline's rule.
    """
    if shop.split.method == "leave_one_out":
        tests, validations = [shop.queries("test")], [shop.queries("validation")]
    else:
        tests, validations = _both_rules(shop, "test"), _both_rules(shop, "validation")
    if not len(tests[0].truth.rows):
        raise EvaluationError(
            "no shopper has both a history before the test span and a target event in it, received "
            f"{tests[0].counts}. Move split.test_start, widen evaluation.target_types or give more data."
        )
    if not len(validations[0].truth.rows):
        raise EvaluationError(
            "no shopper has both a history before the validation span and a target event in it, received "
            f"{validations[0].counts}. Move split.validation_start or give more data."
        )
    # In a small shop whose customers only come back to what they know, nobody is left for the other rule.
    kept = [i for i in range(len(tests)) if len(tests[i].truth.rows) and len(validations[i].truth.rows)]
    return [tests[i] for i in kept], [validations[i] for i in kept]


def _both_rules(shop: Shop, span: Span) -> list[Queries]:
    config = replace(shop.config, exclude_seen=False)
    either = build_queries(shop.sequences, shop.catalogue, shop.split, span, config, 1)
    unseen = either.excluding_seen()
    return [unseen, either] if shop.config.exclude_seen else [either, unseen]


def _protocol(shop: Shop, queries: Queries) -> dict[str, Any]:
    """What exactly was asked."""
    return {
        "split": shop.split.method,
        "exclude_seen": queries.exclude_seen,
        "target_types": list(shop.config.target_types) or "every type that enters histories",
        "validation_cut_off": shop.split.validation_start,
        "cut_off": shop.split.test_start,
        "n_queries": int((queries.truth.lengths > 0).sum()),
        **queries.counts,
        "candidates": "products known before the cut-off" if shop.split.method == "time" else "the whole catalogue",
        "availability": "not asked: the catalogue tells it for the day it was written",
        "two_stage": f"{shop.config.candidates} candidates in the order of stage two, then the rest; candidates are "
        "the shopper's own newest products, unless seen ones are excluded, and the retrieval's best",
        "refit": False,
        "intervals": f"95 %, percentile bootstrap over shoppers, {shop.config.bootstrap_samples} resamples",
    }


def _facts(statistics: Mapping[str, Any]) -> dict[str, Any]:
    """Counts of the data, as the transform made them."""
    names = ("interactions", "users", "items_catalogue", "items_in_events", "items_only_in_events", "spans")
    return {name: statistics[name] for name in (*names, "has_timestamps")}


def _figures(metrics: dict[str, Any], system: str) -> dict[str, Any]:
    return metrics[system] if system in metrics else metrics["baselines"][system]


def _examples(protocol: Protocol, shop: Shop) -> list[dict[str, Any]]:
    """A few shoppers with product ids: history (oldest first), both lists and the truth."""
    queries, ids = protocol.queries, shop.catalogue.item_ids
    worth = np.flatnonzero((queries.truth.lengths > 0) & (queries.history_ends >= _EXAMPLE_HISTORY))
    drawn = sample_users(shop.sequences, queries.users[worth], _EXAMPLES, shop.config.seed)

    def named(rows: np.ndarray) -> list[str]:
        return [str(ids[row]) for row in rows if row]

    examples = []
    for query in worth[np.isin(queries.users[worth], drawn)]:
        _, history, _ = queries.history(query, query + 1)
        examples.append(
            {
                "user_id": str(shop.sequences.user_ids[queries.users[query]]),
                "history": named(history),
                "recommended": named(protocol.systems[TWO_STAGE].lists[query, :LIST_LENGTH]),
                "popular": named(protocol.systems[POPULARITY].lists[query, :LIST_LENGTH]),
                "truth": named(queries.truth.take(np.array([query])).rows),
            }
        )
    return examples


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, allow_nan=False), encoding="utf-8")


def _write_scalars(log_dir: Path, metrics: dict[str, Any]) -> None:
    """The headline's metrics and the gaps between groups, one TensorBoard run per system."""
    systems = [RETRIEVAL, RANKER, TWO_STAGE, *metrics["baselines"], *([ATTAINABLE] if ATTAINABLE in metrics else [])]
    for system in systems:
        writer = tf.summary.create_file_writer(str(log_dir / system))
        with writer.as_default(step=0):
            for name, value in _figures(metrics, system).items():
                if isinstance(value, float):
                    tf.summary.scalar(f"test/{name}", value)
            for attribute, found in _figures(metrics["fairness"], system).items():
                for name, distance in found["gaps"].items():
                    tf.summary.scalar(f"fairness/{attribute}_gap_{name}", distance["gap"])
        writer.close()
