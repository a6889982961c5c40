"""Fits the baselines and chooses their settings on validation queries, once for each rule for seen products."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.baselines import choose_co_occurrence, choose_recent_popularity
from trainer.config import EvaluationConfig
from trainer.data import Catalogue, Sequences
from trainer.queries import Queries, Split, sample_users
from trainer.scorers import Scorer

_LOG = logging.getLogger(__name__)
POPULARITY, CO_OCCURRENCE = "recent_popularity", "co_occurrence"
# Validation shoppers that choose the baselines' settings.
_CHOOSING_SHOPPERS = 1_000


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
        config: target types, days of popularity, seed.
        rules: validation queries under each rule for seen products.

    Returns:
        One per rule.
    """
    validations = [_drawn(sequences, queries, config.seed) for queries in rules]
    popular = choose_recent_popularity(sequences, catalogue, split, config, validations)
    together = choose_co_occurrence(sequences, catalogue, popular[0][0], validations)
    fitted = []
    for validation, popularity, co_occurrence in zip(validations, popular, together, strict=True):
        settings = {
            POPULARITY: {**popularity[0].settings(), "validation_ndcg@10": popularity[1]},
            CO_OCCURRENCE: {**co_occurrence[0].settings(), "validation_ndcg@10": co_occurrence[1]},
        }
        for name, chosen in settings.items():
            _LOG.info("evaluate: exclude_seen=%s, %s: %s", validation.exclude_seen, name, chosen)
        fitted.append(Baselines({POPULARITY: popularity[0], CO_OCCURRENCE: co_occurrence[0]}, settings))
    return fitted


def _drawn(sequences: Sequences, queries: Queries, seed: int) -> Queries:
    """The shoppers that choose the baselines' settings."""
    asked = queries.take(np.flatnonzero(queries.truth.lengths > 0))
    drawn = sample_users(sequences, asked.users, _CHOOSING_SHOPPERS, seed)
    return asked.take(np.flatnonzero(np.isin(asked.users, drawn)))
