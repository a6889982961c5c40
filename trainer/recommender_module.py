"""Both stages in one graph: strings in, ranked products out, under the signatures that servers and clients know."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from trainer.answer_sizes import Sizes
from trainer.candidate_features import Candidates, ProductFacts
from trainer.explanation import Explanation
from trainer.filtered_answers import FilteredAnswers
from trainer.filtered_search import FilterAssets, FilteredSearch
from trainer.index import ABSENT_SCORE, Index
from trainer.inverted_lists import InvertedLists
from trainer.item_search import ItemSearch, Wanted
from trainer.neighbours import Neighbours
from trainer.newcomer_prior import NewcomerPrior
from trainer.newest_search import NewestSearch
from trainer.ranker import RankerState
from trainer.row_lists import best, is_in, repeated
from trainer.served_prior import ServedPrior
from trainer.signatures import Function, Tensors, Untracked, read_weights, signature, whole_batch
from trainer.string_tables import IdTable, NameTable
from trainer.style import SMALLEST_SQUARE, StyleClasses, popular_in_any_other
from trainer.target_value import TargetValue
from transform.tables import FIRST, PADDING

_DEVICE, _REGION = "context_device", "context_region"
# What `embed_user` answered, which way the blend of both stages' scores is shifted, and what each event type is worth.
# Zeros say nothing, as of any optional input.
_EMBEDDING, _STATE, _BLEND, _WORTH = "user_embedding", "user_state", "blend", "target_weights"


@dataclass(frozen=True)
class Stages:
    """What the graph needs of the trained models; D and E are the stages' dimensions, V the catalogue's rows."""

    # (history batch, retrieval_items [V, D]) → [B, D]
    query_embeddings: Callable[[Tensors, tf.Tensor], tf.Tensor]
    # fused item representations [N, D] → vectors as the index holds them [N, D]
    project_items: Callable[[tf.Tensor], tf.Tensor]
    # queries [B, D] of vectors as the index holds them → of fused item representations, up to `item_norms`
    unprojected_queries: Callable[[tf.Tensor], tf.Tensor]
    # (history batch, ranker_items [V, E]) → state of B shoppers
    encode: Callable[[Tensors, tf.Tensor], RankerState]
    # history batch → rows of the state's slots, int32 [B, L']
    state_rows: Callable[[Tensors], tf.Tensor]
    # (state of B shoppers, vectors [B, C, E], rows int32 [B, C]) → [B, C]
    score: Callable[[RankerState, tf.Tensor, tf.Tensor], tf.Tensor]
    # (candidates [B, C], the ranker's scores and the retrieval's [B, C]) → [B, C]
    head: Callable[[Candidates, tf.Tensor, tf.Tensor], tf.Tensor]
    # (history batch, ranker_items [V, E], rows int32 [B, C]) → what made the scores of `score`
    explain: Callable[[Tensors, tf.Tensor, tf.Tensor], Explanation]
    retrieval_items: np.ndarray  # float32 [V, D]
    item_norms: np.ndarray  # float32 [V]
    ranker_items: np.ndarray  # float32 [V, E]
    facts: ProductFacts  # of numpy arrays [V]
    retrieval_history: int  # longest history each of them takes
    ranker_history: int
    has_timestamps: bool  # whether they were trained with times


@dataclass(frozen=True)
class Complements:
    """What `complementary_items` searches."""

    index: Index  # over the styles of the recommendable rows
    style: StyleClasses
    neighbours: Neighbours  # bought together, across categories
    behaviour_share: float


@dataclass(frozen=True)
class ItemLists:
    """What the lists beside a product are made of."""

    neighbours: Neighbours  # in one session
    behaviour_share: float
    # Share of the shopper's own vector, where a history is given.
    history_share: float
    # None: the signature is not exported.
    complements: Complements | None


@dataclass(frozen=True)
class Filters:
    """What requests can filter by."""

    lists: InvertedLists
    assets: FilterAssets


@dataclass(frozen=True)
class Strings:
    """What strings stand for, and how a missing event type is read."""

    item_ids: Path  # of `write_asset`
    contexts: Mapping[str, IdTable]  # "device" and "region", those that the models read
    # Name → number of the event types that the models have met, and the one that stands for all others.
    event_types: Mapping[str, int]
    default_event_type: int


class RecommenderModule(tf.Module):
    """The exported graph. Shapes are [B, width] with the widths of `Sizes`; B is free.

    Rules that hold for every signature:
    - An empty string is padding, wherever it stands; order counts, the newest last.
    - A product that the catalogue lacks is read as the unknown product, and never recommended.
    - A shopper without history gets the products with the highest prior, which is then the score; where the export
      found that it helps, the prior of the request's device, region and hour.
    - Answers are full: what retrieval cannot fill is filled by prior. Only where the catalogue itself
      has fewer products do answers end in "" with the score ABSENT_SCORE.
    - An optional input of batch size 1 holds for the whole batch.
    """

    def __init__(
        self,
        stages: Stages,
        index: Index,
        strings: Strings,
        sizes: Sizes,
        prior: NewcomerPrior,
        recommendable: np.ndarray,
        lists: ItemLists,
        unmet: np.ndarray,
        filters: Filters,
        type_shares: np.ndarray,
    ) -> None:
        """Args:
        stages: the trained models.
        index: over the vectors of the recommendable rows.
        strings: vocabularies.
        sizes: widths of inputs and answers.
        prior: score of each product for a shopper of whom nothing is known.
        recommendable: bool [V], rows that may be answered; False for the reserved ones.
        lists: of `similar_items` and `complementary_items`.
        unmet: int32 [U] recommendable rows that training never met, for which `sizes.new` candidates are kept.
        filters: what requests can filter by.
        type_shares: of `trainer.target_value`, float32 [V, T].
        """
        super().__init__(name="recommender")
        self.sizes = sizes
        self._stages = Untracked(stages)
        self.rows_by_id = IdTable(strings.item_ids)
        self.ids_by_row = NameTable(strings.item_ids)
        self.context_tables = {f"context_{name}": table for name, table in strings.contexts.items()}
        self.event_types = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(
                list(strings.event_types), list(strings.event_types.values()), tf.string, tf.int32
            ),
            default_value=strings.default_event_type,
        )
        self.retrieval_items = tf.Variable(stages.retrieval_items, trainable=False, name="retrieval_items")
        self.inverse_norms = tf.Variable(1.0 / stages.item_norms, trainable=False, name="inverse_norms")
        self.ranker_items = tf.Variable(stages.ranker_items, trainable=False, name="ranker_items")
        # Untracked, so that only what the head reads is saved.
        self._facts = Untracked(ProductFacts(*(tf.Variable(values, trainable=False) for values in stages.facts)))
        self.recommendable = tf.Variable(recommendable, trainable=False, name="recommendable")
        # However many are excluded or found already, this many popular products fill an answer.
        enough = sizes.candidates + sizes.exclusions + sizes.history + 1
        self.prior = ServedPrior(prior, recommendable, enough)
        if index.exact is not None:
            index.exact = self._vectors
        self.target_value = TargetValue(type_shares)
        self._history_share = lists.history_share
        self.near = ItemSearch(index, self._vectors, self.prior, self.prior.popular)
        self.similar = ItemSearch(
            index, self._vectors, self.prior, self.prior.popular, lists.neighbours, lists.behaviour_share
        )
        self.newest = NewestSearch(unmet, self._vectors(tf.constant(unmet)), sizes.new) if sizes.new else None
        self.complementary: ItemSearch | None = None
        if lists.complements:
            self._add_complements(lists.complements, prior, recommendable, enough)
        search = FilteredSearch(
            *(index, self._likeness_of_one, self.prior, filters.lists, filters.assets, self.recommendable),
            fetched=sizes.filters.fetched,
        )
        self.filtered = FilteredAnswers(self, search)
        self.functions = self._signatures()
        # Not the embeddings of content, whose vectors are in the tables above.
        self.weights = read_weights(self.functions)

    def recommend(self, history_item_ids: tf.Tensor, **optional: tf.Tensor) -> Tensors:
        """The best K products: item_ids string [B, K], scores float32 [B, K], best first."""
        batch = self.batch(history_item_ids, optional)
        query = self.query(batch)
        rows, _ = self._candidates(batch, query, self.sizes.candidates)
        rows, scores, _ = self.rank_rows(batch, query, rows)
        rows, scores = rows[:, : self.sizes.answer], scores[:, : self.sizes.answer]
        return {"item_ids": self.ids_by_row(rows), "scores": scores}

    def retrieve(self, history_item_ids: tf.Tensor, **optional: tf.Tensor) -> Tensors:
        """The C candidates of stage one: item_ids string [B, C], scores float32 [B, C], best first."""
        batch = self.batch(history_item_ids, optional)
        rows, scores = self._candidates(batch, self.query(batch), self.sizes.candidates)
        return {"item_ids": self.ids_by_row(rows), "scores": scores}

    def rank(self, history_item_ids: tf.Tensor, candidate_item_ids: tf.Tensor, **optional: tf.Tensor) -> Tensors:
        """The given candidates by the score of stage two, best first: item_ids string [B, C], scores float32 [B, C].

        Nothing is left out: padding and excluded products come last, with ABSENT_SCORE.
        """
        batch = self.batch(history_item_ids, optional)
        rows = self.rows_by_id(candidate_item_ids)
        rows = tf.broadcast_to(rows, [tf.shape(history_item_ids)[0], self.sizes.candidates])
        excluded = is_in(rows, batch["excluded_rows"])
        _, scores, places = self.rank_rows(batch, self.query(batch), tf.where(excluded, PADDING, rows))
        return {"item_ids": tf.gather(candidate_item_ids, places, batch_dims=1), "scores": scores}

    def similar_items(self, item_ids: tf.Tensor, **optional: tf.Tensor) -> Tensors:
        """The K products most like one: item_ids string [B, K], scores float32 [B, K], best first.

        Likeness of vectors and, for products that shoppers meet, what goes along in their sessions (ItemSearch). With
        a history the shopper's vector is blended in; without one, an unknown product is answered by the prior.
        """
        rows, batch = self._item(item_ids, optional)
        return self._beside(self.similar, self._vectors(rows), self.query(batch), rows, batch)

    def complementary_items(self, item_ids: tf.Tensor, **optional: tf.Tensor) -> Tensors:
        """K products of other categories that go with one: item_ids string [B, K], scores float32 [B, K], best first.

        Likeness of styles (trainer/style.py) and what is bought together across categories. With a history the mean
        style of its products is blended in; without one, an unknown product is answered by the prior.
        """
        assert self.complementary is not None
        rows, batch = self._item(item_ids, optional)
        known = tf.cast(batch["history_rows"] >= FIRST, tf.float32)[:, :, tf.newaxis]
        shopper = _normalised(tf.reduce_sum(known * self._styles(batch["history_rows"]), axis=1))
        return self._beside(self.complementary, self._styles(rows), shopper, rows, batch)

    def _item(self, item_ids: tf.Tensor, optional: Tensors) -> tuple[tf.Tensor, Tensors]:
        """The asked rows int32 [B] and the history batch."""
        history = optional.pop("history_item_ids")
        history = tf.broadcast_to(history, [tf.shape(item_ids)[0], self.sizes.history])
        return self.rows_by_id(item_ids), self.batch(history, optional)

    def _beside(
        self, search: ItemSearch, item: tf.Tensor, shopper: tf.Tensor, rows: tf.Tensor, batch: Tensors
    ) -> Tensors:
        """The K products nearest to items [B, D], to which the shoppers' vectors [B, D] are added by their share."""
        known, met = (rows >= FIRST)[:, tf.newaxis], tf.reduce_any(batch["history_rows"] > PADDING, 1)
        share = tf.where(known, tf.where(met[:, tf.newaxis], self._history_share, 0.0), 1.0)
        query = _normalised((1.0 - share) * item + share * shopper)
        excluded = tf.concat([batch["excluded_rows"], rows[:, tf.newaxis]], axis=1)
        by_prior = ~(known[:, 0] | met)
        answer, scores = search(Wanted(query, by_prior, excluded, batch, self.sizes.answer, rows))
        return {"item_ids": self.ids_by_row(answer), "scores": scores}

    def embed_user(self, history_item_ids: tf.Tensor, **optional: tf.Tensor) -> Tensors:
        """What both stages make of a history: embedding float32 [B, D], of norm 1, the shopper's vector in the space of
        the index; state float32 [B, S], for the ranker.

        Whoever gives them back as user_embedding and user_state, with the same history, spares later requests both
        encoders.
        """
        batch = self.batch(history_item_ids, optional)
        state = self._state(batch)
        return {
            "embedding": self.query(batch),
            "state": tf.concat([state.vector, state.repeat_weights], axis=1),
        }

    def explain(self, history_item_ids: tf.Tensor, candidate_item_ids: tf.Tensor, **optional: tf.Tensor) -> Tensors:
        """What each slot of the history has to do with the ranker's scores (trainer/explanation.py).

        attention float32 [B, L], the same for all candidates; attributions float32 [B, C', L], in units of the
        ranker's score. Both stand at the slots of the request; padding has 0, in the history and as a candidate. No
        product is left out. A request costs some hundreds of `rank`'s: it answers a question, it does not fill a page.
        """
        batch = self.batch(history_item_ids, optional)
        rows = self.rows_by_id(candidate_item_ids)
        rows = tf.broadcast_to(rows, [tf.shape(history_item_ids)[0], self.sizes.explained])
        stages = self._stages.value
        found = stages.explain(_newest(batch, stages.ranker_history), self.ranker_items, rows)
        attributions = tf.where((rows > PADDING)[:, :, tf.newaxis], found.attributions, 0.0)
        # Where each slot of the request went, padding having been moved to the left.
        places = tf.argsort(_padding_left(self.rows_by_id(history_item_ids)), axis=1)
        everything = tf.concat([found.attention[:, tf.newaxis], attributions], axis=1)
        given = tf.gather(_last_slots(everything, self.sizes.history), places, axis=2, batch_dims=1)
        return {"attention": given[:, 0], "attributions": given[:, 1:]}

    def batch(self, history_item_ids: tf.Tensor, optional: Tensors) -> Tensors:
        """The history batch that the models take, and `excluded_rows` [B, X (+ L)]: rows to leave out, 0 = none."""
        size = tf.shape(history_item_ids)[0]
        given = whole_batch(optional, size)
        rows = self.rows_by_id(history_item_ids)
        valid = rows > PADDING
        order = _padding_left(rows)
        types = self.event_types.lookup(tf.strings.lower(given["history_event_types"]))
        timestamps = tf.maximum(given["history_timestamps"], 0)
        batch = {
            "history_rows": rows,
            "history_types": tf.where(valid, types, 0),
            "history_timestamps": tf.where(valid, timestamps, tf.zeros_like(timestamps)),
        }
        batch = {name: tf.gather(values, order, batch_dims=1) for name, values in batch.items()}
        batch["context_timestamp"] = tf.maximum(given["context_timestamp"], 0)
        for name in (_DEVICE, _REGION):
            table = self.context_tables.get(name)
            batch[name] = tf.zeros([size], tf.int32) if table is None else table(given[name])
        batch |= {name: given[name] for name in (_EMBEDDING, _STATE, _BLEND, _WORTH)}
        excluded = [self.rows_by_id(given["exclude_item_ids"])]
        if self.sizes.exclude_history:
            excluded.append(rows)
        return batch | {"excluded_rows": tf.concat(excluded, axis=1)}

    def query(self, batch: Tensors) -> tf.Tensor:
        """Vectors of shoppers, [B, D]."""
        stages, given = self._stages.value, batch[_EMBEDDING]
        return tf.cond(
            _all_given(given),
            lambda: given,
            lambda: stages.query_embeddings(_newest(batch, stages.retrieval_history), self.retrieval_items),
        )

    def _state(self, batch: Tensors) -> RankerState:
        """What the ranker knows of shoppers."""
        stages, given = self._stages.value, batch[_STATE]
        newest = _newest(batch, stages.ranker_history)
        rows, width = stages.state_rows(newest), stages.ranker_items.shape[1]

        def encoded() -> tuple[tf.Tensor, tf.Tensor]:
            state = stages.encode(newest, self.ranker_items)
            return state.vector, state.repeat_weights

        vector, weights = tf.cond(_all_given(given), lambda: (given[:, :width], given[:, width:]), encoded)
        return RankerState(vector, rows, weights)

    def _candidates(self, batch: Tensors, query: tf.Tensor, width: int) -> tuple[tf.Tensor, tf.Tensor]:
        """Rows and scores of stage one, [B, width] each: what is kept (trainer/shortlist.py) and the nearest others."""
        newcomer = tf.reduce_all(batch["history_rows"] == PADDING, axis=1)
        # Where models read times, queries of histories without them lie elsewhere than those the index is quick for.
        silent: tf.Tensor | bool = False
        if self._stages.value.has_timestamps:
            silent = tf.reduce_any(tf.reduce_all(batch["history_timestamps"] == 0, axis=1) & ~newcomer)
        rows, scores = self.near(Wanted(query, newcomer, batch["excluded_rows"], batch, width, thorough=silent))
        parts = [] if self.sizes.exclude_history else [self._own(batch, query, width)]
        if self.newest is not None:
            parts.append(self.newest(query, batch["excluded_rows"], newcomer))
        if not parts:
            return rows, scores
        kept, kept_scores = (tf.concat(values, axis=1) for values in zip(*parts, strict=True))
        distinct = (kept >= FIRST) & ~repeated(kept)
        kept, kept_scores = tf.where(distinct, kept, PADDING), tf.where(distinct, kept_scores, ABSENT_SCORE)
        others = ~is_in(rows, kept)
        room = width - tf.reduce_sum(tf.cast(distinct, tf.int32), axis=1, keepdims=True)
        others &= tf.cumsum(tf.cast(others, tf.int32), axis=1) <= room
        return best(
            tf.concat([tf.where(others, rows, PADDING), kept], axis=1),
            tf.concat([tf.where(others, scores, ABSENT_SCORE), kept_scores], axis=1),
            width,
        )

    def _own(self, batch: Tensors, query: tf.Tensor, width: int) -> tuple[tf.Tensor, tf.Tensor]:
        """The shoppers' own newest products: rows, 0 = none, and scores, [B, N] each.

        Where people buy again, what they had is what they most often take; an embedding of the whole history cannot be
        near all of it.
        """
        own = batch["history_rows"][:, -min(self.sizes.history, width // 2) :]
        usable = tf.gather(self.recommendable, own) & ~is_in(own, batch["excluded_rows"])
        return tf.where(usable, own, PADDING), tf.where(usable, self._likeness(query, own), ABSENT_SCORE)

    def _likeness(self, query: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """Dot products with vectors as the index holds them: queries [B, D], rows int32 [B, N] → [B, N]."""
        dots = tf.einsum(
            "bd,bnd->bn", self._stages.value.unprojected_queries(query), tf.gather(self.retrieval_items, rows)
        )
        return dots * tf.gather(self.inverse_norms, rows)

    def _likeness_of_one(self, query: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """As `_likeness` for one query [D] and rows int32 [N]."""
        return self._likeness(query[tf.newaxis], rows[tf.newaxis])[0]

    def _vectors(self, rows: tf.Tensor) -> tf.Tensor:
        """Vectors as the index holds them: rows int32 [...] → float32 [..., D]."""
        return self._stages.value.project_items(tf.gather(self.retrieval_items, rows))

    def _styles(self, rows: tf.Tensor) -> tf.Tensor:
        """Styles as the index of styles holds them: rows int32 [...] → float32 [..., D]."""
        return _normalised(self._vectors(rows) - tf.gather(self.class_means, tf.gather(self.class_of, rows)))

    def _add_complements(
        self, complements: Complements, prior: NewcomerPrior, recommendable: np.ndarray, enough: int
    ) -> None:
        style = complements.style
        self.class_means = tf.Variable(style.means, trainable=False, name="class_means")
        self.class_of = tf.Variable(style.of_row, trainable=False, name="class_of")
        order = np.argsort(-prior.scores, kind="stable")
        order = order[recommendable[order]].astype(np.int32)
        if complements.index.exact is not None:
            complements.index.exact = self._styles
        self.complementary = ItemSearch(
            complements.index,
            self._styles,
            self.prior,
            popular_in_any_other(order, style.category, enough),
            complements.neighbours,
            complements.behaviour_share,
            style.category,
        )

    def rank_rows(self, batch: Tensors, query: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Rows [B, C] by the score of stage two: rows, scores and former places, [B, C] each."""
        stages = self._stages.value
        scores = stages.score(self._state(batch), tf.gather(self.ranker_items, rows), rows)
        newest = _newest(batch, stages.ranker_history)
        candidates = Candidates(rows, newest, self.ranker_items, self._facts.value)
        shift = tf.clip_by_value(batch[_BLEND], -1.0, 1.0)[:, tf.newaxis]
        scores *= 1.0 + tf.minimum(shift, 0.0)
        scores = stages.head(candidates, scores, (1.0 - tf.maximum(shift, 0.0)) * self._likeness(query, rows))
        newcomer = tf.reduce_all(batch["history_rows"] == PADDING, axis=1, keepdims=True)
        scores = tf.where(newcomer, self.prior.of(batch, rows), scores) + self.target_value(rows, batch[_WORTH])
        scores = tf.where(rows == PADDING, ABSENT_SCORE, scores)
        scores, places = tf.math.top_k(scores, rows.shape[1])
        return tf.gather(rows, places, batch_dims=1), scores, places

    def _signatures(self) -> dict[str, Function]:
        history = {"history_item_ids": tf.TensorSpec([None, self.sizes.history], tf.string)}
        candidates = {"candidate_item_ids": tf.TensorSpec([None, self.sizes.candidates], tf.string)}
        explained = {"candidate_item_ids": tf.TensorSpec([None, self.sizes.explained], tf.string)}
        no_history = {"history_item_ids": tf.constant("", shape=[1, self.sizes.history])}
        optional = self._optional_inputs()
        recommend = signature(self.recommend, history, optional)
        item = {"item_ids": tf.TensorSpec([None], tf.string)}
        found = {
            "serving_default": recommend,
            "recommend": recommend,
            "retrieve": signature(self.retrieve, history, optional),
            "rank": signature(self.rank, history | candidates, optional),
            "similar_items": signature(self.similar_items, item, no_history | optional),
            "embed_user": signature(self.embed_user, history, optional),
            "explain": signature(self.explain, history | explained, optional),
        }
        if self.complementary is not None:
            found["complementary_items"] = signature(self.complementary_items, item, no_history | optional)
        return found | self.filtered.signatures(history, optional)

    def _optional_inputs(self) -> Tensors:
        """Defaults of the optional inputs, of batch size 1."""
        history, exclusions = self.sizes.history, self.sizes.exclusions
        return {
            "history_event_types": tf.constant("", shape=[1, history]),
            "history_timestamps": tf.zeros([1, history], tf.int64),
            "context_timestamp": tf.zeros([1], tf.int64),
            _DEVICE: tf.constant("", shape=[1]),
            _REGION: tf.constant("", shape=[1]),
            _EMBEDDING: tf.zeros([1, self.retrieval_items.shape[1]]),
            _STATE: tf.zeros([1, self.ranker_items.shape[1] + self._stages.value.ranker_history]),
            _BLEND: tf.zeros([1]),
            _WORTH: tf.zeros([1, self.target_value.shares.shape[1]]),
            "exclude_item_ids": tf.constant("", shape=[1, exclusions]),
        }


def _normalised(vectors: tf.Tensor) -> tf.Tensor:
    """Vectors [..., D] of norm 1; one that is shorter than rounding stays about 0."""
    return tf.math.l2_normalize(vectors, axis=-1, epsilon=SMALLEST_SQUARE)


def _newest(batch: Tensors, length: int) -> Tensors:
    """The same batch with histories [B, length]: the newest, or more padding to the left."""
    cut = {name: batch[name] for name in ("context_timestamp", _DEVICE, _REGION)}
    for name in ("history_rows", "history_types", "history_timestamps"):
        cut[name] = _last_slots(batch[name], length)
    return cut


def _all_given(values: tf.Tensor) -> tf.Tensor:
    """Whether every line of [B, N] is anything but zeros: bool []. Where one is missing, all are computed."""
    return tf.reduce_all(tf.reduce_any(values != 0, axis=1))


def _last_slots(values: tf.Tensor, length: int) -> tf.Tensor:
    """The newest of [..., L], or more zeros to the left: [..., length]."""
    values = values[..., -length:]
    return tf.pad(values, [[0, 0]] * (len(values.shape) - 1) + [[length - values.shape[-1], 0]])


def _padding_left(rows: tf.Tensor) -> tf.Tensor:
    """The order of slots that puts padding to the left and leaves the rest as it is: int32 [B, L] for rows [B, L]."""
    return tf.argsort(tf.cast(rows > PADDING, tf.int32), axis=1, stable=True)
