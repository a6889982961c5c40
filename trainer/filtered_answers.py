"""Signatures of requests that restrict what may be answered: one list under a filter, or several lists for one page."""

from typing import TYPE_CHECKING

import tensorflow as tf

from trainer.answer_sizes import FilterSizes
from trainer.filtered_search import Filter, FilteredSearch
from trainer.index import ABSENT_SCORE
from trainer.row_lists import best, is_in
from trainer.signatures import Function, Tensors, Untracked, signature, whole_batch
from transform.tables import FIRST, PADDING

if TYPE_CHECKING:
    from trainer.recommender_module import RecommenderModule

_CATEGORIES, _BRANDS, _ALLOWED = "filter_categories", "filter_brands", "allow_item_ids"
_PRICE_MIN, _PRICE_MAX, _UNAVAILABLE = "filter_price_min", "filter_price_max", "include_unavailable"
_LISTS = ("list_categories", "list_brands", "list_price_min", "list_price_max")


class FilteredAnswers(tf.Module):
    """`recommend_filtered`, `retrieve_filtered` and `recommend_lists`; B requests each."""

    def __init__(self, stages: "RecommenderModule", search: FilteredSearch) -> None:
        """Args:
        stages: encode histories and rank.
        search: finds candidates that pass.
        """
        super().__init__(name="filtered_answers")
        self._stages = Untracked(stages)
        self.search = search
        self.widths = stages.sizes
        self.sizes = stages.sizes.filters

    def recommend_filtered(self, history_item_ids: tf.Tensor, **optional: tf.Tensor) -> Tensors:
        """The best K products that pass the filter: item_ids string [B, K], scores float32 [B, K], best first.

        filter_categories, filter_brands string [B, F]: one of them, of a category path any level; filter_price_min,
        filter_price_max float32 [B], both included, 0 = no limit; allow_item_ids string [B, A]; include_unavailable
        bool [B]. All that are given must hold. What no product has lets none pass. Where fewer than K products pass,
        the answer ends in "" with ABSENT_SCORE, and never otherwise.
        """
        stages = self._stages.value
        wanted, batch, query = self._asked(history_item_ids, optional)
        rows, _ = self._search(wanted, batch, query, self.widths.candidates)
        rows, scores, _ = stages.rank_rows(batch, query, rows)
        rows, scores = rows[:, : self.widths.answer], scores[:, : self.widths.answer]
        return {"item_ids": stages.ids_by_row(rows), "scores": scores}

    def retrieve_filtered(self, history_item_ids: tf.Tensor, **optional: tf.Tensor) -> Tensors:
        """The C candidates of stage one that pass the filter, as `recommend_filtered`: item_ids, scores [B, C]."""
        rows, scores = self._search(*self._asked(history_item_ids, optional), self.widths.candidates)
        return {"item_ids": self._stages.value.ids_by_row(rows), "scores": scores}

    def recommend_lists(self, history_item_ids: tf.Tensor, list_names: tf.Tensor, **optional: tf.Tensor) -> Tensors:
        """Several lists for one page: item_ids string [B, N, length], scores float32 [B, N, length], best first.

        list_names string [B, N] says which lists there are, "" = none; list_categories, list_brands string [B, N],
        list_price_min, list_price_max float32 [B, N] restrict each as a filter does. A product stands in the first list
        that has a place for it. The history is encoded once, however many the lists.
        """
        stages, sizes = self._stages.value, self.sizes
        size = tf.shape(history_item_ids)[0]
        given = whole_batch({name: optional.pop(name) for name in _LISTS}, size)
        list_names = tf.broadcast_to(list_names, [size, sizes.lists])
        batch = stages.batch(history_item_ids, optional)
        query = stages.query(batch)
        shopper = tf.range(size * sizes.lists) // sizes.lists
        each = {name: tf.gather(values, shopper) for name, values in batch.items()}
        wanted = _lists_filter({name: tf.reshape(values, [-1]) for name, values in given.items()})
        found, _ = self._search(wanted, each, tf.gather(query, shopper), sizes.list_candidates)
        rows = tf.where(tf.reshape(list_names, [-1, 1]) == "", PADDING, found)
        # A score does not depend on the other candidates, so that all lists are ranked as one.
        rows, scores, places = stages.rank_rows(
            batch, query, tf.reshape(rows, [size, sizes.lists * sizes.list_candidates])
        )
        rows, scores = _distinct_lists(rows, scores, places // sizes.list_candidates, sizes)
        return {"item_ids": stages.ids_by_row(rows), "scores": scores}

    def signatures(self, history: dict[str, tf.TensorSpec], optional: Tensors) -> dict[str, Function]:
        """The signatures by name; of the history batch required and optional inputs are given."""
        sizes = self.sizes
        filters = optional | {
            _CATEGORIES: tf.constant("", shape=[1, sizes.values]),
            _BRANDS: tf.constant("", shape=[1, sizes.values]),
            _PRICE_MIN: tf.zeros([1]),
            _PRICE_MAX: tf.zeros([1]),
            _ALLOWED: tf.constant("", shape=[1, sizes.allowed]),
            _UNAVAILABLE: tf.constant([False]),
        }
        lists = optional | {
            "list_categories": tf.constant("", shape=[1, sizes.lists]),
            "list_brands": tf.constant("", shape=[1, sizes.lists]),
            "list_price_min": tf.zeros([1, sizes.lists]),
            "list_price_max": tf.zeros([1, sizes.lists]),
        }
        names = {"list_names": tf.TensorSpec([None, sizes.lists], tf.string)}
        return {
            "recommend_filtered": signature(self.recommend_filtered, history, filters),
            "retrieve_filtered": signature(self.retrieve_filtered, history, filters),
            "recommend_lists": signature(self.recommend_lists, history | names, lists),
        }

    def _asked(self, history_item_ids: tf.Tensor, optional: Tensors) -> tuple[Filter, Tensors, tf.Tensor]:
        """The filter, the history batch and the shoppers' vectors."""
        names = (_CATEGORIES, _BRANDS, _PRICE_MIN, _PRICE_MAX, _ALLOWED, _UNAVAILABLE)
        given = whole_batch({name: optional.pop(name) for name in names}, tf.shape(history_item_ids)[0])
        stages = self._stages.value
        wanted = Filter(
            given[_CATEGORIES],
            given[_BRANDS],
            given[_PRICE_MIN],
            given[_PRICE_MAX],
            stages.rows_by_id(given[_ALLOWED]),
            tf.reduce_any(given[_ALLOWED] != "", axis=1),
            given[_UNAVAILABLE],
        )
        batch = stages.batch(history_item_ids, optional)
        return wanted, batch, stages.query(batch)

    def _search(self, wanted: Filter, batch: Tensors, query: tf.Tensor, width: int) -> tuple[tf.Tensor, tf.Tensor]:
        newcomer = tf.reduce_all(batch["history_rows"] == PADDING, axis=1)
        return self.search(wanted, query, newcomer, batch["excluded_rows"], batch, width)


def _lists_filter(given: Tensors) -> Filter:
    """One filter for each list, of [B · N] values."""
    count = tf.shape(given["list_categories"])[0]
    return Filter(
        given["list_categories"][:, tf.newaxis],
        given["list_brands"][:, tf.newaxis],
        given["list_price_min"],
        given["list_price_max"],
        tf.zeros([count, 0], tf.int32),
        tf.zeros([count], tf.bool),
        tf.zeros([count], tf.bool),
    )


def _distinct_lists(
    rows: tf.Tensor, scores: tf.Tensor, numbers: tf.Tensor, sizes: FilterSizes
) -> tuple[tf.Tensor, tf.Tensor]:
    """Ranked candidates [B, M] and the list each was found for → rows and scores of the lists, [B, N, length] each."""
    lists: list[tuple[tf.Tensor, tf.Tensor]] = []
    taken = tf.zeros([tf.shape(rows)[0], 0], tf.int32)
    for number in range(sizes.lists):
        own = (numbers == number) & (rows >= FIRST) & ~is_in(rows, taken)
        chosen = best(tf.where(own, rows, PADDING), tf.where(own, scores, ABSENT_SCORE), sizes.list_length)
        taken = tf.concat([taken, chosen[0]], axis=1)
        lists.append(chosen)
    chosen_rows, chosen_scores = (tf.stack(values, axis=1) for values in zip(*lists, strict=True))
    return chosen_rows, chosen_scores
