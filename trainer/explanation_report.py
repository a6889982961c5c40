"""explanation.json: what made first recommendations, how far attention tells it, and what the ranker has learned of
distance and time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from scipy.stats import spearmanr

from trainer.attention import Attention
from trainer.config import EvaluationConfig
from trainer.data import Catalogue
from trainer.explanation import explain
from trainer.history import GAP_BUCKETS
from trainer.queries import Queries, sample_users
from trainer.ranker import Ranker
from trainer.scorers import Scorer
from transform.tables import PADDING

# Gradients of so many shoppers at once.
_BLOCK = 32
# Correlations of fewer slots are mostly chance.
_FEWEST_SLOTS = 5


@dataclass(frozen=True)
class _Told:
    """One product explained to each of Q shoppers."""

    rows: np.ndarray  # int32 [Q, L] of the history
    attention: np.ndarray  # float32 [Q, L]
    attributions: np.ndarray  # float32 [Q, L]
    scores: np.ndarray  # float32 [Q]
    baseline_scores: np.ndarray  # float32 [Q]


def explanation_report(
    ranker: Ranker,
    scorer: Scorer,
    catalogue: Catalogue,
    queries: Queries,
    examples: Sequence[Mapping[str, Any]],
    config: EvaluationConfig,
) -> dict[str, Any]:
    """What explanation.json says.

    Args:
        ranker: the model.
        scorer: of the ranker over the whole catalogue.
        catalogue: its products.
        queries: of the headline, among them those of `examples`.
        examples: shoppers of examples.json, by "user_id", with their "recommended" products.
        config: shoppers and steps.
    """
    drawn = sample_users(queries.sequences, queries.users, config.explained_users, config.seed)
    sample = queries.take(np.flatnonzero(np.isin(queries.users, drawn)))
    explainer = _Explainer(ranker, config.explanation_steps)
    told = explainer(sample, _first_products(scorer, sample))
    return {
        "steps": config.explanation_steps,
        "agreement": agreement(told.rows > PADDING, told.attention, told.attributions),
        "completeness": _completeness(told),
        "shoppers": _shoppers(explainer, catalogue, queries, examples),
        "biases": learned_biases(ranker),
    }


def agreement(valid: np.ndarray, attention: np.ndarray, attributions: np.ndarray) -> dict[str, Any]:
    """How far attention puts slots in the order of their attributions' sizes: Spearman's rank correlation, averaged.

    "recency" is the same for the order of the slots alone: attention that agrees no better has only told what is new.

    Args:
        valid: bool [Q, L], the slots that hold something.
        attention: [Q, L].
        attributions: [Q, L].

    Returns:
        "shoppers": of how many, whose histories have at least "fewest_slots"; "attention" and "recency", None where
        none is long enough.
    """
    found = []
    for there, looked, shares in zip(valid, attention, attributions, strict=True):
        sizes = np.abs(shares[there])
        pairs = (looked[there], np.arange(len(sizes)))
        if len(sizes) >= _FEWEST_SLOTS and all(np.ptp(values) > 0 for values in (sizes, *pairs)):
            found.append([spearmanr(values, sizes).statistic for values in pairs])
    means = np.mean(found, axis=0).tolist() if found else [None, None]
    return {"shoppers": len(found), "fewest_slots": _FEWEST_SLOTS, "attention": means[0], "recency": means[1]}


def learned_biases(ranker: Ranker) -> dict[str, Any]:
    """What is added to attention by distance and time, and how alike the embeddings of places are.

    Only differences within a head mean something: a constant added to all changes no softmax.

    Returns:
        "blocks": one dict per block; "distance" {"first", "heads"}: per head one number for each distance in slots,
        the first of them `first` back (negative = later, which only a masked question sees), None without; "time":
        per head one number for each bucket, None without. "time_from": the shortest time of each bucket in seconds,
        None = unknown. "places": cosines [L][L] of the embeddings of places, newest first, None without.
    """
    embedding = ranker.history_embedding.position_embedding
    return {
        "blocks": [_block_biases(block.attention, ranker.objective.causal) for block in ranker.blocks],
        "time_from": [None, 0, *(1 << power for power in range(GAP_BUCKETS - 2))],
        "places": None if embedding is None else _cosines(embedding.numpy()),
    }


def _block_biases(attention: Attention, causal: bool) -> dict[str, Any]:
    biases: dict[str, Any] = {"distance": None, "time": None}
    if attention.position_bias is not None:
        longest = attention.position_bias.max_length - 1
        # From the most later one to the furthest back.
        values = attention.position_bias.bias.numpy()[:, ::-1]
        first = 0 if causal else -longest
        biases["distance"] = {"first": first, "heads": _rounded(values[:, longest + first :])}
    if attention.time_bias is not None:
        biases["time"] = _rounded(attention.time_bias.bias.numpy().T)
    return biases


def _cosines(vectors: np.ndarray) -> list[list[float]]:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return _rounded(unit @ unit.T)


def _rounded(values: np.ndarray) -> list[Any]:
    rounded: list[Any] = np.round(values.astype(np.float64), 4).tolist()
    return rounded


def _first_products(scorer: Scorer, queries: Queries) -> np.ndarray:
    """The ranker's best candidate of each query, int32 [Q]."""
    best = np.zeros(len(queries), np.int32)
    for start, stop in queries.blocks(_BLOCK):
        scores = np.where(queries.excluded(start, stop), -np.inf, scorer.scores(queries, start, stop))
        best[start:stop] = scores.argmax(axis=1)
    return best


class _Explainer:
    """Explains one product to each query, in blocks of one size and so in one graph."""

    def __init__(self, ranker: Ranker, steps: int) -> None:
        self._length = ranker.config.history_length
        table = ranker.item_table()

        # No Python control flow depends on a tensor, and converting it would take ten seconds.
        @tf.function(autograph=False)
        def told(batch: dict[str, tf.Tensor], candidates: tf.Tensor) -> tuple[tf.Tensor, ...]:
            found = explain(ranker, batch, table, candidates, steps)
            scores = ranker.score(ranker.encode(batch, table), tf.gather(table, candidates), candidates)
            return found.attention, found.attributions[:, 0], scores[:, 0], found.baseline_scores[:, 0]

        self._told = told

    def __call__(self, queries: Queries, rows: np.ndarray) -> _Told:
        """The products of `rows`, int32 [Q], explained."""
        parts: list[list[np.ndarray]] = []
        for start, stop in queries.blocks(_BLOCK):
            batch = queries.batch(start, stop, size=_BLOCK, history_length=self._length)
            candidates = np.pad(rows[start:stop], (0, _BLOCK - (stop - start)))[:, np.newaxis]
            values = [batch["history_rows"], *(value.numpy() for value in self._told(batch, candidates))]
            parts.append([value[: stop - start] for value in values])
        return _Told(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def _completeness(told: _Told) -> dict[str, float]:
    """How far attributions miss what they should add up to: mean size of both, in units of the score."""
    differences = told.scores - told.baseline_scores
    missed = np.abs(told.attributions.sum(axis=1) - differences)
    return {"mean_difference": float(np.abs(differences).mean()), "mean_error": float(missed.mean())}


def _shoppers(
    explainer: _Explainer, catalogue: Catalogue, queries: Queries, examples: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The first recommendation of each example explained, over the slots that the ranker reads, oldest first."""
    if not examples:
        return []
    place_of = {str(queries.sequences.user_ids[user]): place for place, user in enumerate(queries.users)}
    row_of = {str(item_id): row for row, item_id in enumerate(catalogue.item_ids)}
    chosen = queries.take(np.array([place_of[example["user_id"]] for example in examples]))
    rows = np.array([row_of[example["recommended"][0]] for example in examples], np.int32)
    told = explainer(chosen, rows)
    shown = []
    for line, example in enumerate(examples):
        there = told.rows[line] > PADDING
        shown.append(
            {
                "user_id": example["user_id"],
                "item_id": example["recommended"][0],
                "score": float(told.scores[line]),
                "baseline_score": float(told.baseline_scores[line]),
                "history": [str(catalogue.item_ids[row]) for row in told.rows[line][there]],
                "attention": _rounded(told.attention[line][there]),
                "attributions": _rounded(told.attributions[line][there]),
            }
        )
    return shown
