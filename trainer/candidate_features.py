"""What is known of a candidate beside the scores of the two stages, each as of the time of the request."""

from collections.abc import Callable, Collection
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from trainer.data import Catalogue
from trainer.history import HistoryBatch
from transform.tables import FIRST, PADDING, PURCHASE

_DAY = 86_400.0
# Sharpness of the attention over the history: its weights are softmax(sharpness · cosine).
_SHARPNESS = 16.0
# Weight of an interaction per step of age in the mean that forgets.
_MEMORY = 0.8


class ProductFacts(NamedTuple):
    """What features read of every catalogue row, V rows."""

    log_counts: tf.Tensor  # float32 [V]: log(1 + interactions in the training span)
    known_from: tf.Tensor  # int64 [V] seconds
    log_prices: tf.Tensor  # float32 [V]: log(1 + price), NaN = absent


class Candidates(NamedTuple):
    """Candidates of B shoppers beside their histories."""

    rows: tf.Tensor  # int32 [B, C] catalogue rows; 0 = none
    batch: HistoryBatch  # as `Ranker.encode` takes it
    item_table: tf.Tensor  # float32 [V, E]: fused item representations, whose cosines say what is alike
    facts: ProductFacts

    @property
    def occurrences(self) -> tf.Tensor:
        """Whether a candidate is the product of a slot of the history: bool [B, C, L]."""
        same = self.rows[:, :, tf.newaxis] == self.batch["history_rows"][:, tf.newaxis, :]
        return same & (self.rows >= FIRST)[:, :, tf.newaxis]


def product_facts(catalogue: Catalogue) -> ProductFacts:
    """The facts of a catalogue, as numpy arrays."""
    return ProductFacts(
        np.log1p(catalogue.train_counts).astype(np.float32),
        catalogue.known_from.astype(np.int64),
        np.log1p(catalogue.prices).astype(np.float32),
    )


def history_features(candidates: Candidates) -> list[tf.Tensor]:
    """How often and how lately the shopper met the candidate itself; [B, C] each.

    Whether it is in the history; log(1 + times met); log(1 + times bought); 1 / (1 + interactions since it was last
    met), 0 = never.
    """
    found = candidates.occurrences
    times = _count(found)
    bought = _count(found & (candidates.batch["history_types"] == PURCHASE)[:, tf.newaxis])
    length = found.shape[2]
    nearness = 1.0 / np.arange(length, 0, -1, dtype=np.float32)
    nearest = tf.reduce_max(tf.where(found, nearness, 0.0), axis=2)
    return [tf.cast(times > 0, tf.float32), tf.math.log1p(times), tf.math.log1p(bought), nearest]


def history_time_features(candidates: Candidates) -> list[tf.Tensor]:
    """log(1 + days since the candidate was last met), NaN = never or unknown: [B, C]."""
    times = candidates.batch["history_timestamps"][:, tf.newaxis]
    newest = tf.reduce_max(tf.where(candidates.occurrences, times, tf.zeros_like(times)), axis=2)
    return [_log_days(newest, candidates.batch["context_timestamp"][:, tf.newaxis])]


def attention_features(candidates: Candidates) -> list[tf.Tensor]:
    """How alike the candidate is to the other products of the history; [B, C] each, NaN without any.

    Means of the cosines to the slots of the history under four fixed sets of weights: equal, softmax of the cosines
    (the attention of a target over a history, as in DIN: Zhou et al. 2018), falling with age, and the newest alone.
    Fixed kernels whose mix is learned (as in K-NRM: Xiong et al. 2017) need far fewer examples than learned attention.
    The candidate's own slots are left out: `history_features` speaks of them.
    """
    vectors = tf.math.l2_normalize(tf.gather(candidates.item_table, candidates.rows), axis=-1)
    history_rows = candidates.batch["history_rows"]
    history = tf.math.l2_normalize(tf.gather(candidates.item_table, history_rows), axis=-1)
    cosines = tf.einsum("bce,ble->bcl", vectors, history)
    counted = (history_rows >= FIRST)[:, tf.newaxis] & ~candidates.occurrences
    ages = np.arange(cosines.shape[2])[::-1].astype(np.float32)
    kernels = [
        tf.ones_like(cosines),
        tf.exp(_SHARPNESS * (cosines - 1.0)),
        tf.broadcast_to(_MEMORY**ages, tf.shape(cosines)),
        tf.broadcast_to((ages == 0).astype(np.float32), tf.shape(cosines)),
    ]
    return [_weighted_mean(cosines, tf.where(counted, kernel, 0.0)) for kernel in kernels]


def popularity_features(candidates: Candidates) -> list[tf.Tensor]:
    """log(1 + interactions in the training span), NaN = none, and whether there are none; [B, C] each.

    A product that training never met is no unpopular one: mostly it was not there yet.
    """
    counts, new = tf.gather(candidates.facts.log_counts, candidates.rows), unmet(candidates)
    return [tf.where(new > 0, np.nan, counts), new]


def unmet(candidates: Candidates) -> tf.Tensor:
    """1 for products that training never met, 0 for others and for none: float32 [B, C]."""
    never = (tf.gather(candidates.facts.log_counts, candidates.rows) == 0) & (candidates.rows >= FIRST)
    return tf.cast(never, tf.float32)


def age_features(candidates: Candidates) -> list[tf.Tensor]:
    """log(1 + days from the product's first being known to the request), NaN = unknown: [B, C]."""
    known = tf.gather(candidates.facts.known_from, candidates.rows)
    return [_log_days(known, candidates.batch["context_timestamp"][:, tf.newaxis])]


def price_features(candidates: Candidates) -> list[tf.Tensor]:
    """log(1 + price), its difference from the history's mean, and the size of that; [B, C] each, NaN = unknown."""
    price = tf.gather(candidates.facts.log_prices, candidates.rows)
    paid, known = _history_log_prices(candidates)
    usual = tf.reduce_sum(paid, axis=1, keepdims=True) / _count(known)[:, tf.newaxis]
    return [price, price - usual, tf.abs(price - usual)]


def shopper_features(candidates: Candidates) -> list[tf.Tensor]:
    """log(1 + interactions in the history): [B]."""
    return [tf.math.log1p(_count(candidates.batch["history_rows"] > PADDING))]


def shopper_time_features(candidates: Candidates) -> list[tf.Tensor]:
    """log(1 + days) since the newest interaction and since the newest purchase; [B] each, NaN = none or unknown."""
    batch = candidates.batch
    times = batch["history_timestamps"]
    bought = tf.where(batch["history_types"] == PURCHASE, times, tf.zeros_like(times))
    return [_log_days(tf.reduce_max(each, axis=1), batch["context_timestamp"]) for each in (times, bought)]


def shopper_spend_features(candidates: Candidates) -> list[tf.Tensor]:
    """log(1 + today's prices of what the history says was bought, added up): [B]."""
    paid, known = _history_log_prices(candidates)
    bought = known & (candidates.batch["history_types"] == PURCHASE)
    return [tf.math.log1p(tf.reduce_sum(tf.where(bought, tf.math.expm1(paid), 0.0), axis=1))]


FeatureFunction = Callable[[Candidates], list[tf.Tensor]]


class FeatureGroup(NamedTuple):
    """Numbers that one function computes, all of a candidate [B, C] or all of a shopper [B]."""

    part: str
    names: tuple[str, ...]
    compute: FeatureFunction
    needs_clock: bool = False
    needs_prices: bool = False


CANDIDATE_GROUPS = (
    FeatureGroup("history", ("met", "log_times_met", "log_times_bought", "nearness"), history_features),
    FeatureGroup("history", ("log_days_since_met",), history_time_features, needs_clock=True),
    FeatureGroup("attention", ("alike", "alike_attended", "alike_lately", "alike_newest"), attention_features),
    FeatureGroup("popularity", ("log_train_count", "unmet"), popularity_features),
    FeatureGroup("age", ("log_days_known",), age_features, needs_clock=True),
    FeatureGroup("price", ("log_price", "log_price_ratio", "log_price_distance"), price_features, needs_prices=True),
)
SHOPPER_GROUPS = (
    FeatureGroup("shopper", ("log_history_length",), shopper_features),
    FeatureGroup("shopper", ("log_days_idle", "log_days_since_purchase"), shopper_time_features, needs_clock=True),
    FeatureGroup("shopper", ("log_spend",), shopper_spend_features, needs_prices=True),
)


def groups_of(groups: tuple[FeatureGroup, ...], catalogue: Catalogue, parts: Collection[str]) -> list[FeatureGroup]:
    """The groups of the given parts that the data can fill, by their schema: what products come and go says nothing."""
    clock, prices = catalogue.schema.has_timestamps, any(feature.name == "price" for feature in catalogue.schema.item)
    return [
        group
        for group in groups
        if group.part in parts and (clock or not group.needs_clock) and (prices or not group.needs_prices)
    ]


def _count(mask: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.cast(mask, tf.float32), axis=-1)


def _log_days(earlier: tf.Tensor, later: tf.Tensor) -> tf.Tensor:
    """log(1 + days) between int64 seconds, NaN where either is unknown (0); never below 0."""
    days = tf.cast(tf.maximum(later - earlier, 0), tf.float32) / _DAY
    return tf.where((earlier > 0) & (later > 0), tf.math.log1p(days), np.nan)


def _weighted_mean(values: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Over the last axis; 0 / 0 = NaN."""
    return tf.reduce_sum(values * weights, axis=-1) / tf.reduce_sum(weights, axis=-1)


def _history_log_prices(candidates: Candidates) -> tuple[tf.Tensor, tf.Tensor]:
    """log(1 + price) of the slots [B, L], 0 where absent, and whether it is there."""
    rows = candidates.batch["history_rows"]
    prices = tf.gather(candidates.facts.log_prices, rows)
    known = tf.math.is_finite(prices) & (rows >= FIRST)
    return tf.where(known, prices, 0.0), known
