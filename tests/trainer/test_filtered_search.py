"""Filtered retrieval: what passes is worked out by numpy, whichever way the search goes."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.clusters import clustered_vectors
from trainer.filtered_search import Filter, FilterAssets, FilteredSearch
from trainer.index import BruteForceIndex, Index
from trainer.inverted_lists import InvertedLists, invert_categories, invert_names, invert_prices, write_values
from trainer.newcomer_prior import NewcomerPrior
from trainer.portable_index import PortableIndex
from trainer.served_prior import ServedPrior
from trainer.string_tables import write_asset
from transform.tables import FIRST

SIZE, DIM, WIDTH = 900, 8, 20
SHAPE = [SIZE - FIRST]
RNG = np.random.default_rng(5)
VECTORS = np.concatenate([np.zeros([FIRST, DIM], np.float32), clustered_vectors(SIZE - FIRST, DIM, 9, seed=3)])


def column(values: np.ndarray) -> np.ndarray:
    """Object [V] with the reserved rows empty."""
    return np.array([""] * FIRST + [str(value) for value in values], dtype=object)


# A third of the catalogue has no category, a tenth no brand, some no price; a few products are sold out.
CATEGORIES = column(
    RNG.choice(["", "", "shoes", "shoes > boots", "shoes > boots > red", "shoes-care", "hats", "rare"], SHAPE)
)
CATEGORIES[FIRST + 40 :][CATEGORIES[FIRST + 40 :] == "rare"] = "hats"
BRANDS = column(RNG.choice(["", "acme", "zenith", "nobody's", "tiny"], SHAPE, p=[0.1, 0.5, 0.3, 0.09, 0.01]))
PRICES = np.concatenate([[np.nan] * FIRST, RNG.uniform(1, 100, SHAPE).round(2)]).astype(np.float32)
PRICES[RNG.choice(SIZE, 50)] = np.nan
AVAILABLE = RNG.random(SIZE) > 0.1
AVAILABLE[:FIRST] = False
PRIOR = np.concatenate([[0.0] * FIRST, RNG.normal(size=SHAPE)]).astype(np.float32)


@dataclass(frozen=True)
class Asked:
    """One request, as numpy understands it."""

    categories: tuple[str, ...] = ()
    brands: tuple[str, ...] = ()
    price: tuple[float, float] = (0.0, 0.0)
    allowed: tuple[int, ...] | None = None
    with_unavailable: bool = False
    newcomer: bool = False
    excluded: tuple[int, ...] = ()
    query: np.ndarray = field(default_factory=lambda: VECTORS[77])

    def passing(self) -> np.ndarray:
        """Catalogue rows that may be answered."""
        kept = np.arange(SIZE) >= FIRST
        if not self.with_unavailable:
            kept &= AVAILABLE
        if self.categories:
            levels = [f"{path} > " for path in CATEGORIES]
            kept &= [any(own.startswith(f"{wanted} > ") for wanted in self.categories) for own in levels]
        if self.brands:
            kept &= np.isin(BRANDS.astype(str), self.brands)
        if self.price != (0.0, 0.0):
            with np.errstate(invalid="ignore"):
                kept &= (np.float32(self.price[0]) <= PRICES) & (np.float32(self.price[1] or np.inf) >= PRICES)
        if self.allowed is not None:
            kept &= np.isin(np.arange(SIZE), self.allowed)
        kept[list(self.excluded)] = False
        return np.flatnonzero(kept)

    def expected(self) -> tuple[list[int], np.ndarray]:
        """Rows, best first, and their scores; at most WIDTH."""
        rows = self.passing()
        scores = PRIOR[rows] if self.newcomer else VECTORS[rows] @ self.query
        best = np.argsort(-scores, kind="stable")[:WIDTH]
        return rows[best].tolist(), scores[best]


def make_search(folder: Path, index: Index, fetched: int) -> FilteredSearch:
    """Over the whole shop."""
    lists = InvertedLists(invert_categories(CATEGORIES), invert_names(BRANDS), invert_prices(PRICES), PRICES)
    assets = FilterAssets(
        write_asset(write_values(lists.categories.values, folder / "categories.txt"), folder / "assets"),
        write_asset(write_values(lists.brands.values, folder / "brands.txt"), folder / "assets"),
    )
    table = tf.constant(VECTORS)
    return FilteredSearch(
        index,
        lambda query, rows: tf.linalg.matvec(tf.gather(table, rows), query),
        ServedPrior(NewcomerPrior(PRIOR, ()), AVAILABLE, 10),
        lists,
        assets,
        tf.Variable(AVAILABLE),
        fetched,
    )


class Searches:
    """One way to search, called with one request or several."""

    def __init__(self, folder: Path, index: Index, fetched: int) -> None:
        self.search = make_search(folder, index.index(VECTORS[AVAILABLE], np.flatnonzero(AVAILABLE)), fetched)
        self.call = tf.function(self._call, autograph=False)

    def _call(self, wanted: Filter, query: tf.Tensor, newcomer: tf.Tensor, excluded: tf.Tensor) -> tuple:
        batch = {"context_timestamp": tf.zeros(tf.shape(newcomer), tf.int64)}
        return self.search(wanted, query, newcomer, excluded, batch, WIDTH)

    def __call__(self, *asked: Asked) -> tuple[np.ndarray, np.ndarray]:
        wanted = Filter(
            strings([one.categories for one in asked]),
            strings([one.brands for one in asked]),
            tf.constant([one.price[0] for one in asked], tf.float32),
            tf.constant([one.price[1] for one in asked], tf.float32),
            rows([one.allowed or () for one in asked], 5),
            tf.constant([one.allowed is not None for one in asked]),
            tf.constant([one.with_unavailable for one in asked]),
        )
        found = self.call(
            wanted,
            tf.constant(np.stack([one.query for one in asked])),
            tf.constant([one.newcomer for one in asked]),
            rows([one.excluded for one in asked], 4),
        )
        return found[0].numpy(), found[1].numpy()


def strings(values: list[tuple[str, ...]]) -> tf.Tensor:
    return tf.constant([[*line, *[""] * (3 - len(line))] for line in values])


def rows(values: list[tuple[int, ...]], width: int) -> tf.Tensor:
    return tf.constant([[*line, *[0] * (width - len(line))] for line in values], tf.int32)


# The index is asked often, or never because it returns too few; and one that divides the products.
WAYS = {
    "index": lambda folder: Searches(folder, BruteForceIndex(WIDTH), 400),
    "lists": lambda folder: Searches(folder, BruteForceIndex(WIDTH), 1),
    "portable": lambda folder: Searches(folder, PortableIndex(WIDTH, partitions_from=0), 400),
}


@pytest.fixture(scope="module", params=WAYS)
def search(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Searches:
    return WAYS[request.param](tmp_path_factory.mktemp("search"))


@pytest.fixture(scope="module")
def any_search(tmp_path_factory: pytest.TempPathFactory) -> Searches:
    return WAYS["index"](tmp_path_factory.mktemp("search"))


def check(found: np.ndarray, scores: np.ndarray, asked: Asked) -> None:
    expected, expected_scores = asked.expected()
    count = len(expected)
    assert (found > 0).sum() == count, "as many as pass, up to the width"
    assert found[:count].tolist() == expected
    np.testing.assert_allclose(scores[:count], expected_scores, atol=1e-5)
    assert (scores[count:] == -1e9).all()


CASES = {
    "nothing": Asked(),
    "category": Asked(categories=("hats",)),
    "category with those below": Asked(categories=("shoes",)),
    "a level and one below it": Asked(categories=("shoes > boots", "shoes", "shoes > boots > red")),
    "level that is not a prefix of a word": Asked(categories=("shoes > boots > red",)),
    "one of few": Asked(categories=("rare",)),
    "category that no product has": Asked(categories=("spoons",)),
    "known and unknown category": Asked(categories=("spoons", "hats")),
    "brand": Asked(brands=("acme",)),
    "rare brand": Asked(brands=("tiny",)),
    "two brands, one twice": Asked(brands=("tiny", "zenith", "tiny")),
    "price": Asked(price=(10.0, 12.5)),
    "price from": Asked(price=(99.0, 0.0)),
    "no price is that": Asked(price=(50.0, 40.0)),
    "category, brand and price": Asked(categories=("shoes",), brands=("acme", "zenith"), price=(5.0, 60.0)),
    "allow-list": Asked(allowed=(5, 300, 301, 5, 808)),
    "allow-list and brand": Asked(allowed=(5, 300, 301, 302, 808), brands=("acme",)),
    "allow-list of unknown products": Asked(allowed=(1,)),
    "sold out too": Asked(categories=("hats",), with_unavailable=True),
    "newcomer": Asked(newcomer=True, brands=("nobody's",)),
    "newcomer without a filter": Asked(newcomer=True),
}


@pytest.mark.parametrize("asked", CASES.values(), ids=CASES)
def test_best_that_pass_are_found(search: Searches, asked: Asked) -> None:
    found, scores = search(asked)
    check(found[0], scores[0], asked)


def test_each_of_a_batch_has_its_own_filter(search: Searches) -> None:
    together = search(*CASES.values())
    for found, scores, asked in zip(*together, CASES.values(), strict=True):
        check(found, scores, asked)


def test_excluded_products_do_not_shorten_the_answer(search: Searches) -> None:
    without = Asked(categories=("hats",))
    asked = Asked(categories=("hats",), excluded=tuple(without.expected()[0][:4]))
    found, scores = search(asked)
    check(found[0], scores[0], asked)
    assert (found[0] > 0).all()


def test_filter_against_the_shopper_s_taste_still_answers_in_full(any_search: Searches) -> None:
    # What passes is what is farthest from the query: among the 400 nearest there is hardly any of it.
    far = np.argsort(VECTORS @ VECTORS[77])[:5]
    asked = Asked(price=(40.0, 100.0), query=-VECTORS[far].mean(axis=0).astype(np.float32))
    found, scores = any_search(asked)
    check(found[0], scores[0], asked)


requests = st.builds(
    Asked,
    categories=st.lists(st.sampled_from(["shoes", "shoes > boots", "hats", "rare", "spoons"]), max_size=3).map(tuple),
    brands=st.lists(st.sampled_from(["acme", "zenith", "tiny", "?"]), max_size=3).map(tuple),
    price=st.one_of(st.just((0.0, 0.0)), st.tuples(st.floats(0, 100, width=32), st.floats(0, 110, width=32))),
    allowed=st.one_of(st.none(), st.lists(st.integers(1, SIZE - 1), min_size=1, max_size=5).map(tuple)),
    with_unavailable=st.booleans(),
    newcomer=st.booleans(),
    excluded=st.lists(st.integers(FIRST, SIZE - 1), max_size=4).map(tuple),
    query=st.integers(FIRST, SIZE - 1).map(lambda row: VECTORS[row]),
)


@given(asked=requests)
@settings(max_examples=150)
def test_any_filter_finds_what_numpy_finds(any_search: Searches, asked: Asked) -> None:
    found, scores = any_search(asked)
    expected, expected_scores = asked.expected()
    # Products of one vector may change places.
    np.testing.assert_allclose(scores[0][: len(expected)], expected_scores, atol=1e-5)
    assert (found[0] > 0).sum() == len(expected)
    assert set(found[0][found[0] > 0].tolist()) <= set(asked.passing().tolist())
