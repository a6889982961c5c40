"""Small SavedModels with known answers, and broken ones."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

HISTORY_LENGTH = 5
CANDIDATES = 4
EXCLUDE_LENGTH = 3
ITEMS = ("sku-1", "sku-2", "sku-3", "sku-4", "sku-5", "sku-6")
# What filters look at, in the order of ITEMS; a filter may name a leaf of the path alone.
CATEGORIES = ("shoes", "shoes", "shoes", "hats", "hats", "hats")
BRANDS = ("acme", "zest", "acme", "zest", "acme", "zest")
PRICES = (10.0, 20.0, 30.0, 40.0, 50.0, 60.0)
# Passes a filter only where it is told so.
UNAVAILABLE = "sku-6"
FILTER_VALUES = 2
ALLOW_LENGTH = 3
LISTS = 3
LIST_LENGTH = 2
ABSENT_SCORE = -1e9
# Numbers of a shopper's state, and of targets.
STATE = 2
TARGETS = 2
# Optional inputs of what answers with products, beside its history.
TOLD = (
    tf.TensorSpec([None, len(ITEMS)], tf.float32, "user_embedding"),
    tf.TensorSpec([None, STATE], tf.float32, "user_state"),
    tf.TensorSpec([None], tf.float32, "blend"),
    tf.TensorSpec([None, TARGETS], tf.float32, "target_weights"),
)


class Scaler(tf.Module):
    """y = factor · x, with an optional shift; the padding makes it as large as a real model."""

    def __init__(self, factor: float, megabytes: int = 0, width: int = 2) -> None:
        super().__init__()
        self.factor = tf.Variable(factor, dtype=tf.float32)
        self.padding = tf.Variable(np.ones(max(megabytes << 18, 1), np.float32))
        self.width = width

    def save(self, directory: Path) -> Path:
        """Writes `serving_default` (x [B, width], shift [B] = 0 → y [B, width], total [B]) and `greet` [B] → [B]."""
        no_shift = tf.constant([0.0])

        # Defaults reach SignatureDef.defaults only from constants in the argument list of a tf.function.
        @tf.function(input_signature=[_spec([None, self.width], tf.float32, "x"), _spec([None], tf.float32, "shift")])
        def scale(x: tf.Tensor, shift: tf.Tensor = no_shift) -> dict[str, tf.Tensor]:
            y = x * self.factor * self.padding[0] + shift[:, tf.newaxis]
            return {"y": y, "total": tf.reduce_sum(y, axis=1)}

        @tf.function(input_signature=[_spec([None], tf.string, "name")])
        def greet(name: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"greeting": tf.strings.join(["hello ", name])}

        tf.saved_model.save(self, str(directory), signatures={"serving_default": scale, "greet": greet})
        return directory


class TinyRecommender(tf.Module):
    """The signatures of a real recommender with an answer anyone can see.

    Products are sku-1 … sku-6, kept in a table as a real model does. The score of a product is its place in the
    history (1 = oldest slot), 0 where it isn't in it, and products of the exclude list go last with score -1. Where a
    filter lets fewer products pass, the answer ends in "" with ABSENT_SCORE. Whatever else a caller gives is added to
    all scores (`told`). To `embed_user` a shopper is how often the history has each product; the state is how many
    products it has, and of how many kinds.
    """

    def __init__(self, history_length: int = HISTORY_LENGTH) -> None:
        super().__init__()
        self.items = tf.constant(ITEMS)
        self.history_length = history_length
        self.weight = tf.Variable(1.0)

    def scores(self, products: tf.Tensor, history: tf.Tensor, exclude: tf.Tensor) -> tf.Tensor:
        """Scores [B, P] of products [B, P] given histories [B, L]."""
        places = tf.range(1, self.history_length + 1, dtype=tf.float32) * self.weight
        same = tf.cast(products[:, :, tf.newaxis] == history[:, tf.newaxis, :], tf.float32)
        excluded = tf.reduce_any(products[:, :, tf.newaxis] == exclude[:, tf.newaxis, :], axis=2)
        return tf.where(excluded, -1.0, tf.reduce_max(same * places, axis=2))

    def best(self, products: tf.Tensor, history: tf.Tensor, exclude: tf.Tensor) -> dict[str, tf.Tensor]:
        """Products [B, P] sorted by score, ties in their own order."""
        scores = self.scores(products, history, exclude)
        order = tf.argsort(scores, axis=1, direction="DESCENDING", stable=True)
        return {
            "item_ids": tf.gather(products, order, batch_dims=1),
            "scores": tf.gather(scores, order, batch_dims=1),
        }

    def told(self, embedding: tf.Tensor, state: tf.Tensor, blend: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        """What is added to all scores, [B, 1], so that a test sees each value that arrived.

        A real model answers a shopper that is held as one that is not: embedding [B, 6] and state [B, 2] say nothing
        that the history doesn't.
        """
        shares = ((embedding, [1e2, 2e2, 3e2, 4e2, 5e2, 6e2]), (state, [1e3, 2e3]), (weights, [1e1, 2e1]))
        seen = [tf.reduce_sum(given * tf.constant([share]), axis=1) for given, share in shares]
        # Not add_n: those that are not given have one row.
        return sum(seen, blend)[:, tf.newaxis]

    def passing(
        self, categories: tf.Tensor, brands: tf.Tensor, low: tf.Tensor, high: tf.Tensor, allowed: tf.Tensor
    ) -> tf.Tensor:
        """Which products pass: bool [B, P]; of values [B, F], prices [B] and ids [B, A], each "" or 0 = none."""
        prices = tf.constant([PRICES])
        found = (prices >= low[:, tf.newaxis]) & (prices <= tf.where(high > 0, high, np.inf)[:, tf.newaxis])
        for values, given in ((CATEGORIES, categories), (BRANDS, brands), (ITEMS, allowed)):
            one_of = tf.reduce_any(tf.constant(values)[tf.newaxis, :, tf.newaxis] == given[:, tf.newaxis], axis=2)
            found &= one_of | tf.reduce_all(given == "", axis=1, keepdims=True)
        return found

    def best_passing(self, passing: tf.Tensor, history: tf.Tensor, exclude: tf.Tensor) -> dict[str, tf.Tensor]:
        """As `best` of all products, those that do not pass [B, P] replaced by "" at the end."""
        products = tf.tile(self.items[tf.newaxis], [tf.shape(history)[0], 1])
        scores = tf.where(passing, self.scores(products, history, exclude), ABSENT_SCORE)
        order = tf.argsort(scores, axis=1, direction="DESCENDING", stable=True)
        return {
            "item_ids": tf.gather(tf.where(passing, products, ""), order, batch_dims=1),
            "scores": tf.gather(scores, order, batch_dims=1),
        }

    def save(self, directory: Path) -> Path:
        """Writes recommend (= serving_default), retrieve, rank, similar_items, complementary_items, embed_user and
        those that restrict: recommend_filtered, retrieve_filtered and recommend_lists."""
        length = self.history_length
        ids = _spec([None, length], tf.string, "history_item_ids")
        types = _spec([None, length], tf.string, "history_event_types")
        times = _spec([None, length], tf.int64, "history_timestamps")
        now = _spec([None], tf.int64, "context_timestamp")
        exclude = _spec([None, EXCLUDE_LENGTH], tf.string, "exclude_item_ids")
        candidates = _spec([None, CANDIDATES], tf.string, "candidate_item_ids")
        item = _spec([None], tf.string, "item_ids")
        no_types = tf.constant([[""] * length])
        no_times = tf.constant([[0] * length], tf.int64)
        no_time = tf.constant([0], tf.int64)
        no_exclude = tf.constant([[""] * EXCLUDE_LENGTH])
        nobody, no_state, as_trained, no_weights = _untold()

        @tf.function(input_signature=[ids, types, times, now, exclude, *TOLD])
        def recommend(
            history_item_ids: tf.Tensor,
            history_event_types: tf.Tensor = no_types,
            history_timestamps: tf.Tensor = no_times,
            context_timestamp: tf.Tensor = no_time,
            exclude_item_ids: tf.Tensor = no_exclude,
            user_embedding: tf.Tensor = nobody,
            user_state: tf.Tensor = no_state,
            blend: tf.Tensor = as_trained,
            target_weights: tf.Tensor = no_weights,
        ) -> dict[str, tf.Tensor]:
            rows = tf.shape(history_item_ids)[0]
            answer = self.best(tf.tile(self.items[tf.newaxis], [rows, 1]), history_item_ids, exclude_item_ids)
            # The newest event's age and type shift all scores, so that a test sees that they arrived.
            age = tf.cast(context_timestamp - history_timestamps[:, -1], tf.float32) / 1000.0
            bought = tf.cast(history_event_types[:, -1] == "purchase", tf.float32) * 100.0
            told = self.told(user_embedding, user_state, blend, target_weights)
            return answer | {"scores": answer["scores"] + (age + bought)[:, tf.newaxis] + told}

        @tf.function(input_signature=[ids, candidates, exclude, *TOLD])
        def rank(
            history_item_ids: tf.Tensor,
            candidate_item_ids: tf.Tensor,
            exclude_item_ids: tf.Tensor = no_exclude,
            user_embedding: tf.Tensor = nobody,
            user_state: tf.Tensor = no_state,
            blend: tf.Tensor = as_trained,
            target_weights: tf.Tensor = no_weights,
        ) -> dict[str, tf.Tensor]:
            answer = self.best(candidate_item_ids, history_item_ids, exclude_item_ids)
            told = self.told(user_embedding, user_state, blend, target_weights)
            return answer | {"scores": answer["scores"] + told}

        @tf.function(input_signature=[item])
        def similar_items(item_ids: tf.Tensor) -> dict[str, tf.Tensor]:
            products = tf.tile(self.items[tf.newaxis], [tf.shape(item_ids)[0], 1])
            alone = item_ids[:, tf.newaxis]
            return self.best(products, tf.tile(alone, [1, length]), alone)

        @tf.function(input_signature=[item])
        def complementary_items(item_ids: tf.Tensor) -> dict[str, tf.Tensor]:
            products = tf.tile(self.items[tf.newaxis, ::-1], [tf.shape(item_ids)[0], 1])
            return self.best(products, tf.fill([tf.shape(item_ids)[0], length], ""), item_ids[:, tf.newaxis])

        @tf.function(input_signature=[ids])
        def embed_user(history_item_ids: tf.Tensor) -> dict[str, tf.Tensor]:
            known = tf.cast(history_item_ids[:, :, tf.newaxis] == self.items[tf.newaxis, tf.newaxis], tf.float32)
            counts = tf.reduce_sum(known, axis=1) * self.weight
            kinds = tf.math.count_nonzero(counts, axis=1, dtype=tf.float32)
            return {"embedding": counts, "state": tf.stack([tf.reduce_sum(counts, axis=1), kinds], axis=1)}

        signatures = {"serving_default": recommend, "recommend": recommend, "retrieve": recommend, "rank": rank}
        signatures |= {"similar_items": similar_items, "complementary_items": complementary_items}
        signatures["embed_user"] = embed_user
        filtered = self.filtered(ids, exclude)
        signatures |= {"recommend_filtered": filtered, "retrieve_filtered": filtered}
        signatures["recommend_lists"] = self.lists(ids, exclude)
        tf.saved_model.save(self, str(directory), signatures=signatures)
        return directory

    def filtered(self, ids: tf.TensorSpec, exclude: tf.TensorSpec) -> tf.types.experimental.GenericFunction:
        """The signature of answers under a filter."""
        no_exclude = tf.constant([[""] * EXCLUDE_LENGTH])
        nothing = tf.constant([[""] * FILTER_VALUES])
        no_limit = tf.constant([0.0])
        no_allow = tf.constant([[""] * ALLOW_LENGTH])
        available = tf.constant([False])
        specs = [ids, exclude]
        specs += [_spec([None, FILTER_VALUES], tf.string, f"filter_{name}") for name in ("categories", "brands")]
        specs += [_spec([None], tf.float32, f"filter_price_{end}") for end in ("min", "max")]
        specs += [
            _spec([None, ALLOW_LENGTH], tf.string, "allow_item_ids"),
            _spec([None], tf.bool, "include_unavailable"),
        ]
        nobody, no_state, as_trained, no_weights = _untold()

        @tf.function(input_signature=[*specs, *TOLD])
        def recommend_filtered(
            history_item_ids: tf.Tensor,
            exclude_item_ids: tf.Tensor = no_exclude,
            filter_categories: tf.Tensor = nothing,
            filter_brands: tf.Tensor = nothing,
            filter_price_min: tf.Tensor = no_limit,
            filter_price_max: tf.Tensor = no_limit,
            allow_item_ids: tf.Tensor = no_allow,
            include_unavailable: tf.Tensor = available,
            user_embedding: tf.Tensor = nobody,
            user_state: tf.Tensor = no_state,
            blend: tf.Tensor = as_trained,
            target_weights: tf.Tensor = no_weights,
        ) -> dict[str, tf.Tensor]:
            passing = self.passing(filter_categories, filter_brands, filter_price_min, filter_price_max, allow_item_ids)
            passing &= (self.items != UNAVAILABLE)[tf.newaxis] | include_unavailable[:, tf.newaxis]
            answer = self.best_passing(passing, history_item_ids, exclude_item_ids)
            told = self.told(user_embedding, user_state, blend, target_weights)
            return answer | {"scores": answer["scores"] + told}

        return recommend_filtered

    def lists(self, ids: tf.TensorSpec, exclude: tf.TensorSpec) -> tf.types.experimental.GenericFunction:
        """The signature of a page: each list takes the best that no list before it has taken."""
        no_exclude = tf.constant([[""] * EXCLUDE_LENGTH])
        nothing = tf.constant([[""] * LISTS])
        no_limit = tf.constant([[0.0] * LISTS])
        specs = [ids, exclude]
        specs += [_spec([None, LISTS], tf.string, f"list_{name}") for name in ("names", "categories", "brands")]
        specs += [_spec([None, LISTS], tf.float32, f"list_price_{end}") for end in ("min", "max")]

        nobody, no_state, as_trained, no_weights = _untold()

        # Inputs without a default come first in Python; a signature knows no order.
        @tf.function(input_signature=[specs[0], specs[2], specs[1], *specs[3:], *TOLD])
        def recommend_lists(
            history_item_ids: tf.Tensor,
            list_names: tf.Tensor,
            exclude_item_ids: tf.Tensor = no_exclude,
            list_categories: tf.Tensor = nothing,
            list_brands: tf.Tensor = nothing,
            list_price_min: tf.Tensor = no_limit,
            list_price_max: tf.Tensor = no_limit,
            user_embedding: tf.Tensor = nobody,
            user_state: tf.Tensor = no_state,
            blend: tf.Tensor = as_trained,
            target_weights: tf.Tensor = no_weights,
        ) -> dict[str, tf.Tensor]:
            free = tf.fill([tf.shape(history_item_ids)[0], len(ITEMS)], True)
            found = []
            for number in range(LISTS):
                one = [values[:, number : number + 1] for values in (list_categories, list_brands)]
                passing = self.passing(*one, list_price_min[:, number], list_price_max[:, number], one[0][:, :0])
                passing &= free & (list_names[:, number : number + 1] != "")
                answer = self.best_passing(passing, history_item_ids, exclude_item_ids)
                found.append({name: values[:, :LIST_LENGTH] for name, values in answer.items()})
                taken = self.items[tf.newaxis, :, tf.newaxis] == found[-1]["item_ids"][:, tf.newaxis]
                free &= ~tf.reduce_any(taken, axis=2)
            told = self.told(user_embedding, user_state, blend, target_weights)[:, tf.newaxis]
            page = {name: tf.stack([answer[name] for answer in found], axis=1) for name in found[0]}
            return page | {"scores": page["scores"] + told}

        return recommend_lists


class EarlierRecommender(tf.Module):
    """A model from before shoppers could be held: `recommend` and `embed_user`, of histories alone."""

    def save(self, directory: Path) -> Path:
        """Writes both; every answer is sku-1 with the score 0, every shopper the vector (1)."""

        @tf.function(input_signature=[_spec([None, HISTORY_LENGTH], tf.string, "history_item_ids")])
        def recommend(history_item_ids: tf.Tensor) -> dict[str, tf.Tensor]:
            first = history_item_ids[:, :1]
            return {"item_ids": tf.fill(tf.shape(first), ITEMS[0]), "scores": tf.zeros(tf.shape(first))}

        @tf.function(input_signature=[_spec([None, HISTORY_LENGTH], tf.string, "history_item_ids")])
        def embed_user(history_item_ids: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"embedding": tf.ones(tf.shape(history_item_ids[:, :1]))}

        signatures = {"serving_default": recommend, "recommend": recommend, "embed_user": embed_user}
        tf.saved_model.save(self, str(directory), signatures=signatures)
        return directory


def truncate_variables(directory: Path) -> Path:
    """A version whose copy broke off: the values of its variables are cut short."""
    (data,) = directory.glob("variables/variables.data-*")
    os.truncate(data, data.stat().st_size // 2)
    return directory


def ask_for_unknown_op(directory: Path) -> Path:
    """A version that needs an op nobody has registered (as ScaNN's are where the library is missing)."""
    path = directory / "saved_model.pb"
    graph = path.read_bytes()
    assert b"StringJoin" in graph
    path.write_bytes(graph.replace(b"StringJoin", b"StringJo1n"))
    return directory


def add_warm_up(directory: Path, requests: Sequence[PredictRequest]) -> Path:
    """Writes the requests where a server looks for its warm-up."""
    path = directory / "assets.extra" / "tf_serving_warmup_requests"
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for request in requests:
            log = PredictionLog()
            log.predict_log.request.CopyFrom(request)
            writer.write(log.SerializeToString())
    return directory


def publish(saved: Path, base_path: Path, version: int) -> Path:
    """Puts a version under its base path in one step."""
    base_path.mkdir(parents=True, exist_ok=True)
    whole = base_path / f"copy-of-{version}"
    shutil.copytree(saved, whole)
    return whole.rename(base_path / str(version))


def _spec(shape: list[int | None], dtype: tf.DType, name: str) -> tf.TensorSpec:
    return tf.TensorSpec(shape, dtype, name=name)


def _untold() -> list[tf.Tensor]:
    """Defaults of TOLD."""
    return [tf.zeros([1, *spec.shape[1:]]) for spec in TOLD]
