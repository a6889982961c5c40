"""Fits the baselines and chooses their settings on validation queries, once for each rule for seen products."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from trainer.baselines import (
    MOST_INTERACTIONS,
    Baseline,
    Chosen,
    RecentPopularity,
    choose_recent_popularity,
    training_interactions,
)
from trainer.co_occurrence import choose_co_occurrence
from trainer.config import EvaluationConfig
from trainer.data import Catalogue, Sequences
from trainer.matrix_factorisation import choose_matrix_factorisation
from trainer.product2vec import choose_product2vec
from trainer.queries import Queries, Split, sample_users
from trainer.scorers import Scorer
from trainer.session_knn import choose_session_knn
from trainer.title_tfidf import choose_title_tfidf

_LOG = logging.getLogger(__name__)
POPULARITY = "recent_popularity"

# One per rule, of a shop's sequences, its catalogue, what answers where nothing is known, and the rules' validations.
Choose = Callable[[Sequences, Catalogue, RecentPopularity, Sequence[Queries]], Sequence[Chosen[Any]]]


@dataclass(frozen=True)
class Baselines:
    """What is beaten or not, by name, and what validation chose for it."""

    scorers: dict[str, Scorer]
    settings: dict[str, dict[str, Any]]


def fit_baselines(
    sequences: Sequences, catalogue: Catalogue, split: Split, config: EvaluationConfig, rules: Sequence[Queries]
) -> list[Baselines]:
    """Baselines fitted to the training span, their settings chosen by the validation queries of each rule.

    Args:
        sequences: interactions of all shoppers.
        catalogue: all products.
        split: where the training span ends.
        config: which baselines run, on how many shoppers they are chosen, target types, days of popularity, seed.
        rules: validation queries under each rule for seen products.

    Returns:
        One per rule: recent popularity and the configured ones.
    """
    interactions = int(training_interactions(sequences).sum())
    if interactions > MOST_INTERACTIONS:
        _LOG.info("evaluate: baselines are fitted to the newest %d of %d interactions", MOST_INTERACTIONS, interactions)
    validations = [_drawn(sequences, queries, config) for queries in rules]
    popular = choose_recent_popularity(sequences, catalogue, split, config, validations)
    found: dict[str, Sequence[Chosen[Any]]] = {POPULARITY: popular}
    for name, choose in _choosers(config, catalogue).items():
        started = time.monotonic()
        found[name] = choose(sequences, catalogue, popular[0].baseline, validations)
        _LOG.info("evaluate: chose %s in %.1f s", name, time.monotonic() - started)
    return [
        _of_rule({name: chosen[i] for name, chosen in found.items()}, validation.exclude_seen)
        for i, validation in enumerate(validations)
    ]


def _choosers(config: EvaluationConfig, catalogue: Catalogue) -> dict[str, Choose]:
    """The configured baselines beside recent popularity that the data allows, in the order of the report."""
    known: dict[str, Choose] = {
        "co_occurrence": choose_co_occurrence,
        "session_knn": choose_session_knn,
        "matrix_factorisation": partial(choose_matrix_factorisation, seed=config.seed),
        "product2vec": partial(choose_product2vec, seed=config.seed),
    }
    if catalogue.titles.any():
        known["title_tfidf"] = lambda _, catalogue, *rest: choose_title_tfidf(catalogue, *rest)
    return {name: choose for name, choose in known.items() if name in config.baselines}


def _of_rule(chosen: dict[str, Chosen[Baseline]], exclude_seen: bool) -> Baselines:
    settings = {name: {**one.baseline.settings(), "validation_ndcg@10": one.ndcg} for name, one in chosen.items()}
    for name, values in settings.items():
        _LOG.info("evaluate: exclude_seen=%s, %s: %s", exclude_seen, name, values)
    return Baselines({name: one.baseline for name, one in chosen.items()}, settings)


def _drawn(sequences: Sequences, queries: Queries, config: EvaluationConfig) -> Queries:
    """The shoppers that choose the baselines' settings."""
    asked = queries.take(np.flatnonzero(queries.truth.lengths > 0))
    drawn = sample_users(sequences, asked.users, config.baseline_shoppers, config.seed)
    return asked.take(np.flatnonzero(np.isin(asked.users, drawn)))
