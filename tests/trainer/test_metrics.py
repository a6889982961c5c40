"""Metrics and ranks: hand-worked numbers, pytrec_eval and scikit-learn, properties."""

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.metrics import roc_auc_score

from tests.trainer.small_shop import TIME, VIEW, make_catalogue, make_sequences
from tests.trainer.worlds import checkerboard_catalogue
from trainer.config import EvaluationConfig
from trainer.metrics import (
    auc,
    average_popularity,
    average_precision,
    class_shares,
    content_vectors,
    coverage,
    diversity,
    exposures,
    gini,
    hit_rate,
    ndcg,
    novelty,
    ranking_metrics,
    recall,
    reciprocal_rank,
    validation_ndcg,
)
from trainer.queries import Lists, build_queries
from trainer.ranking import order_keys, rank_truth, top_rows, two_stage_keys
from transform.tables import FIRST

# Two queries over 20 candidates: the first has its three products at ranks 1, 4 and 12, the second its one at rank 3.
TRUTH = Lists(np.array([0, 3, 4]), np.array([2, 3, 4, 5], np.int32))
RANKS = np.array([4, 1, 12, 3])
CANDIDATES = np.array([20, 20])


def test_recall_is_the_share_of_the_truth_in_the_list() -> None:
    assert recall(RANKS, TRUTH, 10).tolist() == pytest.approx([2 / 3, 1.0])
    assert recall(RANKS, TRUTH, 2).tolist() == pytest.approx([1 / 3, 0.0])


def test_hit_rate_asks_for_any_of_the_truth() -> None:
    assert hit_rate(RANKS, TRUTH, 2).tolist() == [1.0, 0.0]


def test_ndcg_divides_by_the_ideal_list_of_the_same_length() -> None:
    # First: gains 1/log2(2) = 1 and 1/log2(5) = 0.430677; ideal of three: 1 + 0.630930 + 0.5 = 2.130930.
    # Second: 1/log2(4) = 0.5; ideal 1.
    assert ndcg(RANKS, TRUTH, 10).tolist() == pytest.approx([1.430677 / 2.130930, 0.5], abs=1e-6)
    # Cut at 2: gain 1; ideal of two: 1.630930.
    assert ndcg(RANKS, TRUTH, 2).tolist() == pytest.approx([1 / 1.630930, 0.0], abs=1e-6)


def test_average_precision_divides_by_the_whole_truth() -> None:
    # Precision 1/1 at rank 1, 2/4 at rank 4; rank 12 is outside: (1 + 0.5) / 3. Second: (1/3) / 1.
    assert average_precision(RANKS, TRUTH, 10).tolist() == pytest.approx([0.5, 1 / 3])


def test_reciprocal_rank_takes_the_best_of_the_truth() -> None:
    assert reciprocal_rank(RANKS, TRUTH).tolist() == pytest.approx([1.0, 1 / 3])


def test_auc_counts_pairs_in_the_right_order() -> None:
    # First: 17 others; behind rank 1 all 17, behind rank 4 (two others before) 15, behind rank 12 (nine before) 8.
    # Second: 19 others, 17 of them behind rank 3.
    assert auc(RANKS, TRUTH, CANDIDATES).tolist() == pytest.approx([40 / 51, 17 / 19])


def test_auc_is_undefined_where_everything_is_the_truth() -> None:
    assert np.isnan(auc(np.array([1]), Lists(np.array([0, 1]), np.array([2])), np.array([1])))[0]


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), size=st.integers(3, 40), level=st.integers(1, 8))
def test_metrics_agree_with_pytrec_eval_and_scikit_learn(seed: int, size: int, level: int) -> None:
    rng = np.random.default_rng(seed)
    # Few levels make many ties, which the lower row wins.
    scores = rng.integers(0, level, (3, size)).astype(np.float32)
    relevant = rng.random((3, size)) < 0.3
    relevant[np.arange(3), rng.integers(0, size, 3)] = True
    relevant[:, 0] = False
    relevant[relevant.sum(axis=1) == 0, 1] = True
    truth = Lists(np.concatenate([[0], np.cumsum(relevant.sum(axis=1))]), np.nonzero(relevant)[1].astype(np.int32))
    ranks = rank_truth(order_keys(scores, np.zeros_like(relevant)), truth)
    ours = ranking_metrics(ranks, truth, np.full(3, size), (6, 10, 20))

    order = np.lexsort((np.broadcast_to(np.arange(size), scores.shape), -scores))
    places = np.argsort(order, axis=1)
    names = ("ndcg_cut.6,10,20", "recall.6,10,20", "map_cut.6,10,20", "success.6,10,20", "recip_rank")
    qrel = {str(q): {str(row): int(relevant[q, row]) for row in range(size)} for q in range(3)}
    run = {str(q): {str(row): float(size - places[q, row]) for row in range(size)} for q in range(3)}
    theirs = pytrec_eval.RelevanceEvaluator(qrel, set(names)).evaluate(run)
    for q in range(3):
        for name, other in {"ndcg": "ndcg_cut", "recall": "recall", "map": "map_cut", "hit_rate": "success"}.items():
            for cutoff in (6, 10, 20):
                assert ours[f"{name}@{cutoff}"][q] == pytest.approx(theirs[str(q)][f"{other}_{cutoff}"])
        assert ours["mrr"][q] == pytest.approx(theirs[str(q)]["recip_rank"])
        assert ours["auc"][q] == pytest.approx(roc_auc_score(relevant[q], size - places[q]))


@settings(max_examples=60)
@given(seed=st.integers(0, 10_000))
def test_order_keys_sort_as_a_stable_sort_of_the_scores(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = np.array([-np.float32(3e38), -1.5, -1e-40, -0.0, 0.0, 1e-40, 2.5, 3e38], np.float32)
    scores = rng.choice(values, (2, 30))
    excluded = rng.random((2, 30)) < 0.2
    lists = top_rows(order_keys(scores, excluded), 30)
    for query in range(2):
        kept = np.flatnonzero(~excluded[query])
        expected = kept[np.argsort(-scores[query, kept], kind="stable")]
        assert lists[query, : len(kept)].tolist() == expected.tolist()
        assert not lists[query, len(kept) :].any()


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), limit=st.integers(1, 40), asked=st.integers(1, 20))
def test_limited_ranks_equal_the_full_ones_up_to_the_limit(seed: int, limit: int, asked: int) -> None:
    rng = np.random.default_rng(seed)
    keys = order_keys(rng.integers(0, 5, (2, 30)).astype(np.float32), np.zeros((2, 30), bool))
    # With few products of truth per query they are compared with everything, with many only with the best of the list.
    truth = Lists(np.array([0, asked, asked + 1]), rng.integers(0, 30, asked + 1).astype(np.int32))
    full = rank_truth(keys, truth)
    assert rank_truth(keys, truth, limit).tolist() == np.minimum(full, limit + 1).tolist()


def test_keys_do_not_depend_on_what_is_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    scores, excluded = rng.standard_normal((7, 30)).astype(np.float32), rng.random((7, 30)) < 0.2
    whole = order_keys(scores, excluded)
    monkeypatch.setattr("trainer.ranking._MADE_AT_ONCE", 60)
    assert (order_keys(scores, excluded) == whole).all()


def test_score_that_is_not_a_number_is_named_by_its_place_in_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.ranking._MADE_AT_ONCE", 2)
    scores = np.array([[0.0, 1.0], [2.0, 1.0], [3.0, np.inf]], np.float32)
    with pytest.raises(ValueError, match=r"received inf for catalogue row 1 in query 2 of the block"):
        order_keys(scores, np.zeros((3, 2), bool))


def test_score_that_is_not_a_number_is_named() -> None:
    scores = np.array([[0.0, 1.0], [np.nan, 1.0]], np.float32)
    with pytest.raises(ValueError, match=r"received nan for catalogue row 0 in query 1 of the block"):
        order_keys(scores, np.zeros((2, 2), bool))


def test_infinite_score_of_an_excluded_product_is_no_error() -> None:
    scores = np.array([[-np.inf, 1.0, 2.0]], np.float32)
    assert top_rows(order_keys(scores, np.array([[True, False, False]])), 3).tolist() == [[2, 1, 0]]


def test_scores_for_another_catalogue_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[queries, catalogue rows\] = \(1, 3\), received \(1, 2\)"):
        order_keys(np.zeros((1, 2)), np.zeros((1, 3), bool))


def test_two_stages_reorder_what_was_retrieved_and_leave_the_rest_behind() -> None:
    excluded = np.array([[True, False, False, False, False, False]])
    retrieval = order_keys(np.array([[9, 5, 4, 3, 2, 1]], np.float32), excluded)
    ranker = order_keys(np.array([[9, 1, 3, 2, 8, 9]], np.float32), excluded)
    nothing = np.zeros((1, 6), bool)
    # Retrieved: 1, 2, 3; the ranker would put 5 first, but never sees it.
    assert top_rows(two_stage_keys(retrieval, ranker, nothing, 3), 6).tolist() == [[2, 3, 1, 4, 5, 0]]


def test_own_products_are_candidates_unretrieved_and_count_among_them() -> None:
    excluded = np.array([[True, False, False, False, False, False]])
    retrieval = order_keys(np.array([[9, 5, 4, 3, 2, 1]], np.float32), excluded)
    ranker = order_keys(np.array([[9, 1, 3, 2, 8, 9]], np.float32), excluded)
    # Of three candidates one is the shopper's own 5, so that 1 and 2 are retrieved; 0 is excluded though it is own.
    own = np.array([[True, False, False, False, False, True]])
    assert top_rows(two_stage_keys(retrieval, ranker, own, 3), 6).tolist() == [[5, 2, 1, 3, 4, 0]]


def test_coverage_counts_distinct_products_and_not_the_padding() -> None:
    assert coverage(np.array([[2, 3, 0], [3, 4, 0]]), candidates=6) == 0.5


def test_novelty_is_the_surprise_of_the_list_in_bits() -> None:
    # Counts 0, 0 (reserved), 1, 2, 1 plus one each: shares 2/7, 3/7, 2/7 of 4 + 3 products.
    counts = np.array([0, 0, 1, 2, 1])
    assert novelty(np.array([[2, 3], [3, 0]]), counts).tolist() == pytest.approx(
        [(np.log2(7 / 2) + np.log2(7 / 3)) / 2, np.log2(7 / 3)]
    )


def test_average_popularity_is_the_mean_share_of_the_training_interactions() -> None:
    # Shares 1/4, 2/4, 1/4; the second list has one product only, the third none.
    counts = np.array([0, 0, 1, 2, 1])
    assert average_popularity(np.array([[2, 3], [3, 0], [0, 0]]), counts).tolist() == pytest.approx([3 / 8, 1 / 2, 0])


def test_class_shares_divide_each_list_among_the_classes() -> None:
    classes = np.array([2, 2, 0, 1, 2, 0])
    # Products 2 and 5 are of class 0, 3 of 1, 4 of 2; padding counts for none.
    shares = class_shares(np.array([[2, 5, 3, 4], [4, 0, 0, 0]]), classes, 3)
    assert shares.tolist() == [[0.5, 0.25, 0.25], [0.0, 0.0, 1.0]]


def test_exposures_count_places_in_lists_and_not_the_padding() -> None:
    assert exposures(np.array([[2, 3, 0], [3, 4, 0]]), 6).tolist() == [0, 0, 1, 2, 1, 0]


def test_gini_is_worked_by_hand() -> None:
    # Ascending 1, 2, 5 with weights −2, 0, 2: (−2 + 10) / (3 · 8).
    assert gini(np.array([5, 1, 2])) == pytest.approx(8 / 24)
    assert gini(np.array([4, 4, 4])) == 0.0
    # One of four has everything: 3/4.
    assert gini(np.array([0, 0, 7, 0])) == pytest.approx(3 / 4)
    assert gini(np.array([0, 0])) == 0.0


@settings(max_examples=30)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=30))
def test_gini_is_half_the_relative_mean_difference(values: list[int]) -> None:
    counts = np.array(values)
    expected = np.abs(counts[:, None] - counts).mean() / (2 * counts.mean()) if counts.any() else 0.0
    assert gini(counts) == pytest.approx(expected)


def test_diversity_is_one_minus_the_mean_cosine_of_pairs() -> None:
    # Products 2 and 3 are alike, 4 has nothing in common with them: cosines 1, 0, 0.
    content = sparse.csr_matrix(np.array([[0, 0], [0, 0], [1, 0], [1, 0], [0, 1]], float))
    assert diversity(np.array([[2, 3, 4], [2, 3, 0]]), content).tolist() == pytest.approx([2 / 3, 0.0])


def test_content_vectors_tell_colours_apart() -> None:
    catalogue = checkerboard_catalogue()
    # The titles share their second word; category (two levels), brand, attribute and the first word tell the colour.
    catalogue.features["title"][FIRST:, 1] = FIRST + 2
    content = content_vectors(catalogue)
    assert content is not None
    cosines = (content @ content.T).toarray()
    assert cosines[2, 4] == pytest.approx(1.0)
    assert cosines[2, 3] == pytest.approx(1 / 6)


def test_catalogue_of_ids_alone_has_no_content() -> None:
    assert content_vectors(make_catalogue()) is None


def test_validation_ndcg_ranks_all_candidates_in_full_batches() -> None:
    shoppers = {f"u{n}": [(2 + n, 10, VIEW), (5, 150, VIEW)] for n in range(3)}
    queries = build_queries(make_sequences(shoppers), make_catalogue(7), TIME, "validation", EvaluationConfig(), 4)

    def score_block(batch: dict[str, np.ndarray]) -> np.ndarray:
        assert batch["history_rows"].shape == (2, 4)
        # The product seen first, then row 5: rank 2 for everybody.
        scores = np.zeros((2, 7), np.float32)
        scores[np.arange(2), batch["history_rows"][:, -1]] = 2
        scores[:, 5] = 1
        return scores

    assert validation_ndcg(score_block, queries, block=2) == pytest.approx(1 / np.log2(3))


def test_validation_without_queries_is_an_error() -> None:
    queries = build_queries(
        make_sequences({"u": [(2, 10, VIEW)]}), make_catalogue(), TIME, "test", EvaluationConfig(), 4
    )
    with pytest.raises(ValueError, match="needs at least one query, received 0"):
        validation_ndcg(lambda batch: np.zeros((256, 10)), queries)
