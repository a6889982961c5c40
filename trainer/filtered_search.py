"""Products near a vector that pass a filter, in a graph: as many as are wanted whenever so many pass."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from trainer.index import ABSENT_SCORE, Index
from trainer.inverted_lists import InvertedList, InvertedLists
from trainer.row_lists import best, is_in
from trainer.served_prior import ServedPrior
from trainer.signatures import Tensors, Untracked
from trainer.string_tables import IdTable
from transform.tables import FIRST, PADDING

# Rows that are scored at once; bounds the memory of a filter that most of the catalogue passes.
_ROWS_AT_ONCE = 32_768
# An index is asked where it is expected to return this many times as many passing products as are wanted.
_MARGIN = 1.5


class Filter(NamedTuple):
    """What B requests let pass: products that have one of the categories, one of the brands, a price between the two
    limits and are on the allow-list; what is not given does not restrict."""

    categories: tf.Tensor  # string [B, F], paths to any level; "" = none
    brands: tf.Tensor  # string [B, F]
    price_min: tf.Tensor  # float32 [B]; where both limits are 0, any price or none
    price_max: tf.Tensor  # float32 [B]; 0 = no limit
    allowed: tf.Tensor  # int32 [B, A] catalogue rows, 0 = none
    has_allowed: tf.Tensor  # bool [B]: whether there is an allow-list, be its products known or not
    with_unavailable: tf.Tensor  # bool [B]


@dataclass(frozen=True)
class FilterAssets:
    """Vocabulary files of the values, without their first line (trainer/string_tables.py)."""

    categories: Path
    brands: Path


class _Ranges(NamedTuple):
    """Parts of the inverted lists, one after the other: int32 [F] each."""

    starts: tf.Tensor
    ends: tf.Tensor

    @property
    def total(self) -> tf.Tensor:
        """Products in them, int32 []."""
        return tf.reduce_sum(self.ends - self.starts)


class _Property(tf.Module):
    """One property of products with few values: its inverted list inside the list of all."""

    def __init__(self, inverted: InvertedList, asset: Path, offset: int, name: str) -> None:
        super().__init__(name=name)
        self._offset = offset
        self.ids = IdTable(asset)
        # Padding and values that no product has are empty ranges.
        self.starts = tf.Variable(np.pad(inverted.starts, [FIRST, 0]), trainable=False, name="starts")
        self.ends = tf.Variable(np.pad(inverted.ends, [FIRST, 0]), trainable=False, name="ends")
        self.places = tf.Variable(inverted.places, trainable=False, name="places")

    def ranges(self, values: tf.Tensor) -> _Ranges:
        """Of values, string [F]: in the list of this property; a range within another is left out."""
        ids = self.ids(values)
        starts, ends = tf.gather(self.starts, ids), tf.gather(self.ends, ids)
        number = tf.range(tf.size(values))
        inside = (starts[tf.newaxis] <= starts[:, tf.newaxis]) & (ends[:, tf.newaxis] <= ends[tf.newaxis])
        same = (starts[tf.newaxis] == starts[:, tf.newaxis]) & (ends[:, tf.newaxis] == ends[tf.newaxis])
        inside &= ~same | (number[tf.newaxis] < number[:, tf.newaxis])
        return _Ranges(starts, tf.where(tf.reduce_any(inside, axis=1), starts, ends))

    def has(self, ranges: _Ranges, rows: tf.Tensor) -> tf.Tensor:
        """Which of rows int32 [N] are in the ranges: bool [N]."""
        places = tf.gather(self.places, rows)[:, tf.newaxis]
        return tf.reduce_any((ranges.starts <= places) & (places < ranges.ends), axis=1)

    def in_all(self, ranges: _Ranges) -> _Ranges:
        """The ranges in the list of all properties."""
        return _Ranges(ranges.starts + self._offset, ranges.ends + self._offset)


class FilteredSearch(tf.Module):
    """The best products that pass a filter.

    The property of the filter with the fewest products says how selective it is. Where the index can be expected to
    return enough products that pass, it is asked for `fetched` neighbours: if as many as wanted pass, they are the
    best, as far as the index is exact. Otherwise all products of the fewest are scored, which is exact.
    """

    def __init__(
        self,
        index: Index,
        scores: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
        prior: ServedPrior,
        lists: InvertedLists,
        assets: FilterAssets,
        recommendable: tf.Variable,
        fetched: int,
    ) -> None:
        """Args:
        index: over the recommendable rows.
        scores: (query [D], rows int32 [N]) → dot products with the vectors of the index [N].
        prior: scores products for those of whom nothing is known.
        lists: of the catalogue.
        assets: names of its categories and brands.
        recommendable: bool [V].
        fetched: neighbours that the index is asked for.
        """
        super().__init__(name="filtered_search")
        self._index = Untracked(index)
        self._scores = scores
        self._prior = Untracked(prior)
        self.recommendable = recommendable
        self.fetched = min(fetched, index.size)
        categories, brands = lists.categories, lists.brands
        self.categories = _Property(categories, assets.categories, 0, "categories")
        self.brands = _Property(brands, assets.brands, len(categories.rows), "brands")
        self._by_price = len(categories.rows) + len(brands.rows)
        self._everything = self._by_price + len(lists.price_rows)
        size = len(lists.prices)
        self._end = self._everything + size - FIRST
        everything = np.arange(FIRST, size, dtype=np.int32)
        self.rows = tf.Variable(
            np.concatenate([categories.rows, brands.rows, lists.price_rows, everything]), trainable=False, name="rows"
        )
        self.prices = tf.Variable(lists.prices, trainable=False, name="prices")
        self.sorted_prices = tf.Variable(lists.prices[lists.price_rows], trainable=False, name="sorted_prices")
        self.popular = tf.Variable(prior.most_popular(self.fetched), trainable=False, name="popular")

    def __call__(
        self, wanted: Filter, query: tf.Tensor, newcomer: tf.Tensor, excluded: tf.Tensor, batch: Tensors, width: int
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The `width` best that pass, best first: rows int32 and scores float32, [B, width]; row 0 = there are no more.

        Args:
            wanted: of B requests.
            query: float32 [B, D].
            newcomer: bool [B], of whom nothing is known: the prior scores for them.
            excluded: int32 [B, E] rows to leave out.
            batch: the history batch.
            width: how many.
        """
        context = {name: values for name, values in batch.items() if name.startswith("context_")}
        signature = (tf.TensorSpec([width], tf.int32), tf.TensorSpec([width], tf.float32))

        def one(given: _Given) -> tuple[tf.Tensor, tf.Tensor]:
            return _Request(self, given).search(width)

        everything = _Given(wanted, query, newcomer, excluded, context)
        return tf.map_fn(one, everything, fn_output_signature=signature)


class _Given(NamedTuple):
    """Arguments of `FilteredSearch.__call__`, of all requests or of one."""

    wanted: Filter
    query: tf.Tensor
    newcomer: tf.Tensor
    excluded: tf.Tensor
    context: Tensors


class _Request:
    """One request: shapes lack the batch dimension."""

    def __init__(self, search: FilteredSearch, given: _Given) -> None:
        self._search = search
        self._query = given.query
        self._newcomer = given.newcomer
        self._excluded = given.excluded
        self._context = {name: values[tf.newaxis] for name, values in given.context.items()}
        self._wanted = wanted = given.wanted
        self._by_category = tf.reduce_any(wanted.categories != "")
        self._by_brand = tf.reduce_any(wanted.brands != "")
        self._by_price = (wanted.price_min > 0) | (wanted.price_max > 0)
        self._price_max = tf.where(wanted.price_max > 0, wanted.price_max, np.inf)
        self._categories = search.categories.ranges(wanted.categories)
        self._brands = search.brands.ranges(wanted.brands)

    def search(self, width: int) -> tuple[tf.Tensor, tf.Tensor]:
        """Rows int32 and scores float32, [width] each, best first."""
        ranges, total = self._fewest()
        share = tf.cast(total, tf.float32) / float(self._search._end - self._search._everything)
        ask_index = share * float(self._search.fetched) >= _MARGIN * width
        # The index holds what is available, and all products of an allow-list are soon looked at.
        ask_index &= ~self._wanted.with_unavailable & ~self._wanted.has_allowed
        nothing = tf.zeros([width], tf.int32), tf.fill([width], ABSENT_SCORE)
        rows, scores = tf.cond(ask_index, lambda: self._by_index(width), lambda: nothing)
        # The last is there only if all are.
        return tf.cond(rows[-1] >= FIRST, lambda: (rows, scores), lambda: self._exactly(ranges, width))

    def _fewest(self) -> tuple[_Ranges, tf.Tensor]:
        """Where the products of the most selective property stand in the list of all, and how many they are."""
        search = self._search
        low = tf.searchsorted(search.sorted_prices, [self._wanted.price_min], side="left")[0]
        high = tf.searchsorted(search.sorted_prices, [self._price_max], side="right")[0]
        width = self._wanted.categories.shape[0]
        sources = [
            (self._by_category, search.categories.in_all(self._categories)),
            (self._by_brand, search.brands.in_all(self._brands)),
            (self._by_price, _single(search._by_price + low, search._by_price + tf.maximum(low, high), width)),
            (tf.constant(True), _single(search._everything, search._end, width)),
        ]
        most = tf.constant(np.iinfo(np.int32).max)
        totals = tf.stack([tf.where(given, ranges.total, most) for given, ranges in sources])
        chosen = tf.argmin(totals, output_type=tf.int32)
        ranges = _Ranges(*(tf.stack([part[i] for _, part in sources])[chosen] for i in range(2)))
        return ranges, tf.gather(totals, chosen)

    def _passing(self, rows: tf.Tensor) -> tf.Tensor:
        """Which of rows int32 [N] pass: bool [N]; excluded ones too."""
        search, wanted = self._search, self._wanted
        price = tf.gather(search.prices, rows)
        passing = (rows >= FIRST) & (tf.gather(search.recommendable, rows) | wanted.with_unavailable)
        passing &= ~self._by_category | search.categories.has(self._categories, rows)
        passing &= ~self._by_brand | search.brands.has(self._brands, rows)
        # An absent price is a NaN, which is in no range.
        passing &= ~self._by_price | ((price >= wanted.price_min) & (price <= self._price_max))
        allowed = tf.cond(
            wanted.has_allowed,
            lambda: is_in(rows[tf.newaxis], wanted.allowed[tf.newaxis])[0],
            lambda: tf.ones_like(rows, tf.bool),
        )
        return passing & allowed

    def _by_index(self, width: int) -> tuple[tf.Tensor, tf.Tensor]:
        rows, scores = tf.cond(self._newcomer, self._most_popular, self._nearest)
        return self._chosen(rows, tf.where(self._passing(rows), scores, ABSENT_SCORE), width)

    def _nearest(self) -> tuple[tf.Tensor, tf.Tensor]:
        scores, rows = self._search._index.value(self._query[tf.newaxis], k=self._search.fetched, thorough=True)
        return rows[0], scores[0]

    def _most_popular(self) -> tuple[tf.Tensor, tf.Tensor]:
        rows = tf.identity(self._search.popular)
        return rows, self._prior_of(rows)

    def _prior_of(self, rows: tf.Tensor) -> tf.Tensor:
        return self._search._prior.value.of(self._context, rows[tf.newaxis])[0]

    def _exactly(self, ranges: _Ranges, width: int) -> tuple[tf.Tensor, tf.Tensor]:
        """The best of the allow-list or of the ranges, a block at a time."""
        allowed = tf.unique(self._wanted.allowed).y
        sizes = ranges.ends - ranges.starts
        ends = tf.cumsum(sizes)
        total = tf.where(self._wanted.has_allowed, tf.size(allowed), ends[-1])
        kept = width + self._excluded.shape[0]

        def rows_at(places: tf.Tensor) -> tf.Tensor:
            number = tf.searchsorted(ends, places, side="right")
            places += tf.gather(ranges.starts - (ends - sizes), number)
            return tf.gather(self._search.rows, places)

        def block(start: tf.Tensor, rows: tf.Tensor, scores: tf.Tensor) -> tuple[tf.Tensor, ...]:
            places = tf.range(start, tf.minimum(start + _ROWS_AT_ONCE, total))
            more = tf.cond(self._wanted.has_allowed, lambda: tf.gather(allowed, places), lambda: rows_at(places))
            more_scores = tf.where(self._passing(more), self._scores_of(more), ABSENT_SCORE)
            scores, order = tf.math.top_k(tf.concat([scores, more_scores], axis=0), kept)
            return start + _ROWS_AT_ONCE, tf.gather(tf.concat([rows, more], axis=0), order), scores

        start = tf.constant(0), tf.zeros([kept], tf.int32), tf.fill([kept], ABSENT_SCORE)
        _, rows, scores = tf.while_loop(lambda start, *_: start < total, block, start)
        return self._chosen(rows, scores, width)

    def _scores_of(self, rows: tf.Tensor) -> tf.Tensor:
        return tf.cond(self._newcomer, lambda: self._prior_of(rows), lambda: self._search._scores(self._query, rows))

    def _chosen(self, rows: tf.Tensor, scores: tf.Tensor, width: int) -> tuple[tf.Tensor, tf.Tensor]:
        """The `width` best of rows [N] with a score, without the excluded."""
        rows, scores = best(rows[tf.newaxis], scores[tf.newaxis], width + self._excluded.shape[0])
        usable = (scores > ABSENT_SCORE) & ~is_in(rows, self._excluded[tf.newaxis])
        rows, scores = best(tf.where(usable, rows, PADDING), tf.where(usable, scores, ABSENT_SCORE), width)
        return rows[0], scores[0]


def _single(start: tf.Tensor | int, end: tf.Tensor | int, width: int) -> _Ranges:
    """One range and empty ones, [width]."""
    rest = tf.zeros([width - 1], tf.int32)
    return _Ranges(*(tf.concat([[bound], rest], axis=0) for bound in (start, end)))
