"""Every index keeps one contract; ScaNN's recall and sharing are measured against the exact twin."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.trainer.clusters import clustered_vectors, mixed_queries
from trainer.index import ABSENT_SCORE, BruteForceIndex, Index, SearchEffort
from trainer.index_quality import milliseconds_per_query, recall_at_100, tune, tune_thoroughly
from trainer.portable_index import PortableIndex, Storage
from trainer.scann_index import ScannIndex, ScannLayout

SIZE, DIM = 1_500, 8
VECTORS = clustered_vectors(SIZE, DIM, 12, seed=1)
# Rows as in a catalogue where every third product is not available.
ROWS = (2 + np.arange(SIZE) * 3 // 2).astype(np.int32)
QUERIES = mixed_queries(VECTORS, 30, seed=2)
# Tuning searches with every effort for each of them.
TUNING = QUERIES[::2]


def of_rows(rows: tf.Tensor) -> tf.Tensor:
    """Vectors of catalogue rows, [..., DIM]; zero for rows that are not indexed."""
    table = np.zeros([ROWS[-1] + 1, DIM], np.float32)
    table[ROWS] = VECTORS
    return tf.gather(tf.constant(table), rows)


def portable(storage: Storage = "float32") -> Callable[[int], Index]:
    return lambda k: PortableIndex(k, storage, of_rows, partitions_from=0)


MAKERS: dict[str, Callable[[int], Index]] = {
    "exact": BruteForceIndex,
    "scann_scoring": ScannIndex,
    "scann_hashing": lambda k: ScannIndex(k, brute_force_below=0),
    "scann_tree": lambda k: ScannIndex(k, brute_force_below=0, tree_from=0),
    "portable_scoring": PortableIndex,
    "portable": portable(),
    "portable_bfloat16": portable("bfloat16"),
    "portable_int8": portable("int8"),
}


@pytest.fixture(params=MAKERS)
def index(request: pytest.FixtureRequest) -> Index:
    return MAKERS[request.param](20).index(VECTORS, ROWS)


def exact_top(queries: np.ndarray, k: int) -> np.ndarray:
    """Rows of the k largest dot products, worked out by numpy: [Q, k]."""
    return ROWS[np.argsort(-(queries @ VECTORS.T), axis=1)[:, :k]]


def test_index_is_a_tfrs_top_k_layer(index: Index) -> None:
    # Imported late: the package wants Keras 2, which our own packages choose.
    from tensorflow_recommenders.layers.factorized_top_k import TopK

    assert isinstance(index, TopK)


def test_answer_has_the_width_asked_for(index: Index) -> None:
    scores, rows = index(tf.constant(QUERIES), k=33)
    assert scores.shape == rows.shape == (30, 33)


def test_width_is_static_in_a_graph(index: Index) -> None:
    spec = [tf.TensorSpec([None, DIM])]
    search = tf.function(lambda queries: index(queries), input_signature=spec, autograph=False)
    scores, rows = search.get_concrete_function().output_shapes
    assert scores.as_list() == rows.as_list() == [None, 20]


def test_scores_descend_and_are_dot_products(index: Index) -> None:
    scores, rows = (values.numpy() for values in index(tf.constant(QUERIES)))
    found = rows > 0
    place = {row: number for number, row in enumerate(ROWS.tolist())}
    for query, query_scores, query_rows, kept in zip(QUERIES, scores, rows, found, strict=True):
        own = VECTORS[[place[row] for row in query_rows[kept].tolist()]] @ query
        np.testing.assert_allclose(query_scores[kept], own, atol=1e-5)
        assert (np.diff(query_scores[kept]) <= 0).all()


def test_products_are_distinct_and_indexed(index: Index) -> None:
    rows = index(tf.constant(QUERIES))[1].numpy()
    for query_rows in rows:
        products = query_rows[query_rows > 0].tolist()
        assert len(set(products)) == len(products)
        assert set(products) <= set(ROWS.tolist())


def test_nearly_all_of_the_nearest_are_found(index: Index) -> None:
    rows = index(tf.constant(QUERIES))[1].numpy()
    hits = [np.isin(found, nearest).mean() for found, nearest in zip(rows, exact_top(QUERIES, 20), strict=True)]
    assert np.mean(hits) > 0.95


def test_more_than_there_are_is_padded_with_finite_scores(index: Index) -> None:
    scores, rows = (values.numpy() for values in index(tf.constant(QUERIES), k=SIZE + 10))
    assert np.isfinite(scores).all()
    assert (rows[:, -10:] == 0).all()
    assert (scores[rows == 0] == ABSENT_SCORE).all()
    assert ((rows > 0).argmin(axis=1) == (rows > 0).sum(axis=1)).all(), "padding stands at the end"


@pytest.mark.parametrize(
    "name", ["exact", "scann_scoring", "scann_hashing", "portable", "portable_bfloat16", "portable_int8"]
)
def test_a_batch_answers_as_its_queries_do_one_by_one(name: str) -> None:
    index = MAKERS[name](20).index(VECTORS, ROWS)
    together = index(tf.constant(QUERIES))[1].numpy()
    alone = np.concatenate([index(tf.constant(query[np.newaxis]))[1].numpy() for query in QUERIES])
    np.testing.assert_array_equal(together, alone)


def test_empty_batch_has_an_empty_answer(index: Index) -> None:
    scores, rows = index(tf.zeros([0, DIM]))
    assert scores.shape == rows.shape == (0, 20)


@pytest.mark.parametrize("name", ["exact", "scann_scoring", "portable_scoring", "portable", "portable_int8"])
def test_exact_scoring_finds_what_numpy_finds(name: str) -> None:
    rows = MAKERS[name](20).index(VECTORS, ROWS)(tf.constant(QUERIES))[1].numpy()
    np.testing.assert_array_equal(rows, exact_top(QUERIES, 20))


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
def test_search_before_indexing_is_refused(maker: Callable[[int], Index]) -> None:
    with pytest.raises(ValueError, match="the index is empty"):
        maker(5)(tf.zeros([1, DIM]))


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
def test_vector_that_is_not_finite_is_refused_by_row(maker: Callable[[int], Index]) -> None:
    broken = VECTORS.copy()
    broken[7, 3] = np.nan
    with pytest.raises(ValueError, match=rf"catalogue row {ROWS[7]} is not finite \(1 of {SIZE}"):
        maker(5).index(broken, ROWS)


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
def test_reserved_rows_are_refused(maker: Callable[[int], Index]) -> None:
    with pytest.raises(ValueError, match="identifiers below 2 are reserved for padding and unknown, got 1"):
        maker(5).index(VECTORS[:3], np.array([1, 2, 3]))


def test_identifiers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one per candidate, \[3\], got \(2,\)"):
        BruteForceIndex(5).index(VECTORS[:3], np.array([2, 3]))


@pytest.mark.parametrize(
    ("size", "layout"),
    [
        (19_999, ScannLayout(hashing=False, leaves=0)),
        (20_000, ScannLayout(hashing=True, leaves=0)),
        (99_999, ScannLayout(hashing=True, leaves=0)),
        (100_000, ScannLayout(hashing=True, leaves=316)),
        (1_000_000, ScannLayout(hashing=True, leaves=1_000)),
    ],
)
def test_layout_follows_the_published_rules(size: int, layout: ScannLayout) -> None:
    assert ScannLayout.for_size(size, brute_force_below=20_000, tree_from=100_000) == layout


PARTITIONED = pytest.mark.parametrize("name", ["scann_tree", "portable", "portable_int8"])


@PARTITIONED
def test_search_that_finds_too_few_is_masked(name: str) -> None:
    # 39 leaves of about 40 products: a search of two leaves cannot find 400.
    index = MAKERS[name](400).index(VECTORS, ROWS)
    index.effort = SearchEffort(leaves=2, reordered=800)
    scores, rows = (values.numpy() for values in index(tf.constant(QUERIES)))
    assert (rows == 0).any()
    assert np.isfinite(scores).all()


@PARTITIONED
def test_tuning_chooses_the_least_effort_that_reaches_the_recall(name: str) -> None:
    exact = BruteForceIndex(150).index(VECTORS, ROWS)
    index = MAKERS[name](150).index(VECTORS, ROWS)
    most = index.effort
    reached = tune(index, TUNING, exact, 0.9)
    assert index.effort == index.thorough_effort
    assert index.effort.leaves < most.leaves
    assert 0.9 <= reached == recall_at_100(index, exact, TUNING)


@PARTITIONED
def test_thorough_effort_is_tuned_apart_and_never_below_the_other(name: str) -> None:
    exact = BruteForceIndex(150).index(VECTORS, ROWS)
    index = MAKERS[name](150).index(VECTORS, ROWS)
    tune(index, TUNING, exact, 0.8)
    quick = index.effort
    reached = tune_thoroughly(index, TUNING, exact, 0.97)
    assert index.effort == quick
    assert index.thorough_effort.leaves > quick.leaves
    assert 0.97 <= reached == recall_at_100(index, exact, TUNING, thorough=True)
    thorough = index.thorough_effort
    tune_thoroughly(index, TUNING, exact, 0.9)
    assert index.thorough_effort == thorough, "what other queries need is not taken back"


@PARTITIONED
def test_tuning_in_vain_ends_with_the_least_effort_that_finds_as_much_as_any(name: str) -> None:
    exact = BruteForceIndex(150).index(VECTORS, ROWS)
    index = MAKERS[name](150).index(VECTORS, ROWS)
    most = recall_at_100(index, exact, TUNING)
    reached = tune(index, TUNING, exact, 1.01)
    assert most - 0.005 <= reached == recall_at_100(index, exact, TUNING)
    cheaper = index.efforts()[: index.efforts().index(index.effort)]
    assert cheaper, "the greatest effort finds no more"
    for effort in cheaper:
        index.effort = effort
        assert recall_at_100(index, exact, TUNING) < most - 0.005


def test_recall_is_the_share_of_the_nearest_hundred() -> None:
    # The other index lacks every second product, so it can find the even half of the nearest 100 only.
    vectors = np.stack([np.linspace(1, 0, 200), np.zeros(200)], axis=1).astype(np.float32)
    rows = np.arange(2, 202, dtype=np.int32)
    exact = BruteForceIndex(100).index(vectors, rows)
    half = BruteForceIndex(100).index(vectors[::2], rows[::2])
    query = np.array([[1, 0]], np.float32)
    assert recall_at_100(half, exact, query) == 0.5


def test_recall_counts_equal_products_alike() -> None:
    vectors = np.ones([300, 4], np.float32) / 2
    exact = BruteForceIndex(100).index(vectors, np.arange(2, 302))
    reversed_index = BruteForceIndex(100).index(vectors, np.arange(2, 302)[::-1])
    assert recall_at_100(reversed_index, exact, vectors[:1]) == 1.0


def test_recall_of_an_index_made_for_fewer_neighbours() -> None:
    exact = BruteForceIndex(5).index(VECTORS, ROWS)
    assert recall_at_100(ScannIndex(5).index(VECTORS, ROWS), exact, QUERIES) == 1.0


def test_recall_of_a_catalogue_smaller_than_a_hundred() -> None:
    exact = BruteForceIndex(100).index(VECTORS[:30], ROWS[:30])
    assert recall_at_100(ScannIndex(100).index(VECTORS[:30], ROWS[:30]), exact, QUERIES) == 1.0


class Searches(tf.Module):
    """Four functions over one index."""

    def __init__(self, index: Index, dim: int) -> None:
        self.index = index
        spec = [tf.TensorSpec([None, dim], name="query")]
        self.functions = {
            f"search_{k}": tf.function(self._search(k), input_signature=spec, autograph=False) for k in (5, 10, 50, 100)
        }

    def _search(self, k: int) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
        return lambda query: dict(zip(("scores", "rows"), self.index(query, k=k), strict=True))


def save_searches(index: Index, dim: int, directory: Path) -> Searches:
    module = Searches(index, dim)
    options = tf.saved_model.SaveOptions(namespace_whitelist=["Scann"])
    tf.saved_model.save(module, str(directory), signatures=module.functions, options=options)
    return module


def test_saved_index_answers_the_same(index: Index, tmp_path: Path) -> None:
    save_searches(index, DIM, tmp_path / "model")
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    answer = loaded.signatures["search_10"](query=tf.constant(QUERIES))
    scores, rows = index(tf.constant(QUERIES), k=10)
    np.testing.assert_array_equal(answer["rows"], rows)
    np.testing.assert_allclose(answer["scores"], scores, atol=1e-6)


def test_index_built_again_is_not_taken_for_the_former_one() -> None:
    first, second = (MAKERS["scann_tree"](20).index(VECTORS[:size], ROWS[:size]) for size in (SIZE, 700))
    first(tf.constant(QUERIES))
    assert set(second(tf.constant(QUERIES))[1].numpy().ravel()) <= {0, *ROWS[:700].tolist()}


def test_two_models_in_a_process_keep_their_own_products(tmp_path: Path) -> None:
    other = clustered_vectors(SIZE, DIM, 12, seed=9)
    indexes = [ScannIndex(10).index(vectors, ROWS) for vectors in (VECTORS, other)]
    for number, index in enumerate(indexes):
        save_searches(index, DIM, tmp_path / str(number))
    loaded = [tf.saved_model.load(str(tmp_path / str(number))) for number in (0, 1)]
    first, second = (model.signatures["search_10"](query=tf.constant(QUERIES))["rows"].numpy() for model in loaded)
    np.testing.assert_array_equal(first, exact_top(QUERIES, 10))
    assert (first != second).any()


def resident_megabytes() -> float:
    """Memory of this process that is in RAM."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4_096 / 2**20


def session_growth(directory: Path, dim: int, names: list[str]) -> float:
    """Megabytes that a session needs for a SavedModel once each of the signatures has been called."""
    before = resident_megabytes()
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        graph = tf.compat.v1.saved_model.load(session, ["serve"], str(directory))
        query = np.ones([1, dim], np.float32)
        for name in names:
            definition = graph.signature_def[name]
            session.run(definition.outputs["rows"].name, {definition.inputs["query"].name: query})
        return resident_megabytes() - before


@pytest.fixture(scope="module")
def large_catalogue() -> tuple[np.ndarray, np.ndarray]:
    vectors = clustered_vectors(200_000, 64, 300, seed=3)
    return vectors, mixed_queries(vectors, 1_000, seed=4)


@pytest.mark.slow
def test_scann_finds_98_percent_of_the_nearest_hundred_of_200_000(
    large_catalogue: tuple[np.ndarray, np.ndarray],
) -> None:
    vectors, queries = large_catalogue
    rows = np.arange(2, 2 + len(vectors), dtype=np.int32)
    exact = BruteForceIndex(300).index(vectors, rows)
    start = time.perf_counter()
    index = ScannIndex(300).index(vectors, rows)
    tune(index, queries[:500], exact, 0.985)
    assert time.perf_counter() - start < 120
    assert index.layout == ScannLayout(hashing=True, leaves=447)
    assert recall_at_100(index, exact, queries[500:]) >= 0.98


@pytest.mark.slow
def test_four_signatures_share_one_searcher(large_catalogue: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    vectors, _ = large_catalogue
    module = save_searches(ScannIndex(100).index(vectors), 64, tmp_path / "model")
    names = list(module.functions)
    # Once to warm up the allocator and the ops.
    session_growth(tmp_path / "model", 64, names[:1])
    one = session_growth(tmp_path / "model", 64, names[:1])
    four = session_growth(tmp_path / "model", 64, names)
    index_megabytes = vectors.nbytes / 2**20
    assert four - one < 0.3 * index_megabytes


def test_time_of_a_search_is_measured(index: Index) -> None:
    assert 0 < milliseconds_per_query(index, QUERIES, 20) < 1_000
