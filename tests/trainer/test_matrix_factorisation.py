"""ALS and BPR as baselines."""

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from tests.trainer.small_shop import TIME, VIEW, make_catalogue, make_sequences
from trainer.baselines import RecentPopularity
from trainer.config import EvaluationConfig
from trainer.data import Sequences
from trainer.matrix_factorisation import (
    Als,
    Bpr,
    choose_als,
    choose_bpr,
    choose_matrix_factorisation,
    interaction_counts,
)
from trainer.queries import Queries, build_queries

SIZE = 14
CONFIG = EvaluationConfig(exclude_seen=True)


def two_colours(per_colour: int = 20) -> Sequences:
    """Shoppers who meet five of the six products of their colour (even or odd rows); validation asks for the sixth.

    Row 13 is met by nobody. The last shopper comes after the training span.
    """
    shoppers = {}
    for n in range(2 * per_colour):
        products = np.roll(np.arange(2 + n % 2, 2 + n % 2 + 12, 2)[:6], n // 2).tolist()
        products = [row if row != 13 else 3 for row in products]
        shoppers[f"u{n}"] = [*((row, 10 + at, VIEW) for at, row in enumerate(products[:5])), (products[5], 150, VIEW)]
    shoppers["late"] = [(2, 120, VIEW), (4, 121, VIEW), (6, 210, VIEW)]
    return make_sequences(shoppers)


def chosen(sequences: Sequences, queries: Queries, seed: int = 1) -> tuple[Als, Bpr]:
    counts = interaction_counts(sequences, SIZE)
    popularity = RecentPopularity.fit(sequences, make_catalogue(SIZE), TIME, CONFIG, days=None)
    (als,), (bpr,) = (choose(counts, popularity, [queries], seed) for choose in (choose_als, choose_bpr))
    return als.baseline, bpr.baseline


@pytest.fixture(scope="module")
def world() -> tuple[Sequences, Queries, Als, Bpr]:
    sequences = two_colours()
    queries = build_queries(sequences, make_catalogue(SIZE), TIME, "validation", CONFIG, 4)
    return sequences, queries, *chosen(sequences, queries)


def test_counts_are_of_the_training_span() -> None:
    sequences = make_sequences({"ann": [(2, 10, VIEW), (2, 11, VIEW), (1, 12, VIEW), (3, 150, VIEW)]})
    assert interaction_counts(sequences, 4).toarray().tolist() == [[0, 0, 2, 0]]


def test_both_find_the_missing_product_of_the_colour(world: tuple[Sequences, Queries, Als, Bpr]) -> None:
    _, queries, *models = world
    for model in models:
        scores = model.scores(queries, 0, len(queries))
        scores[queries.excluded(0, len(queries))] = -np.inf
        wanted = queries.truth.rows % 2
        assert (scores.argmax(axis=1)[queries.truth.owners] % 2 == wanted).mean() > 0.9


def test_als_folds_the_history_in_by_the_normal_equations(world: tuple[Sequences, Queries, Als, Bpr]) -> None:
    _, queries, als, _ = world
    variant, products = als.variant, als.model.item_factors.astype(np.float64)
    _, rows, ages = queries.history(0, 1)
    # x = (YᵀY + Yᵀ(C − I)Y + λI)⁻¹ YᵀC p, with the confidence α · decay^age for what was met.
    confidence = np.zeros(SIZE)
    np.add.at(confidence, rows, variant.confidence * variant.decay**ages)
    met = confidence > 0
    system = products.T @ products + variant.regularisation * np.eye(variant.factors)
    system += products[met].T @ ((confidence[met] - 1)[:, None] * products[met])
    shopper = np.linalg.solve(system, products[met].T @ confidence[met])
    expected = products @ shopper
    others = [row for row in range(2, 13) if row not in rows]
    assert als.scores(queries, 0, 1)[0, others] == pytest.approx(expected[others], rel=1e-3, abs=1e-5)


def test_als_knows_shoppers_who_came_after_training_and_bpr_answers_by_popularity(
    world: tuple[Sequences, Queries, Als, Bpr],
) -> None:
    sequences, _, als, bpr = world
    tests = build_queries(sequences, make_catalogue(SIZE), TIME, "test", CONFIG, 4)
    assert sequences.user_ids[tests.users].tolist() == ["late"]
    (scores,), (popular,) = als.scores(tests, 0, 1), bpr.scores(tests, 0, 1)
    assert scores[[6, 8, 10, 12]].min() > scores[[3, 5, 7, 9, 11]].max()
    unseen = [3, 5, 6, 7, 8, 9, 10, 11, 12, 13]
    order = bpr.popularity.order_scores
    assert np.argsort(-popular[unseen], kind="stable").tolist() == np.argsort(-order[unseen], kind="stable").tolist()


def test_products_without_training_interactions_follow_by_popularity(
    world: tuple[Sequences, Queries, Als, Bpr],
) -> None:
    _, queries, *models = world
    for model in models:
        scores = model.scores(queries, 0, len(queries))
        rest = np.ones(scores.shape, bool)
        rest[:, [0, 1, 13]] = False
        owners, rows, _ = queries.history(0, len(queries))
        rest[owners, rows] = False
        assert (scores[:, 13] < np.where(rest, scores, np.inf).min(axis=1)).all()


def test_the_same_seed_gives_the_same_factors(world: tuple[Sequences, Queries, Als, Bpr]) -> None:
    sequences, queries, *models = world
    for model, again in zip(models, chosen(sequences, queries), strict=True):
        assert np.array_equal(model.scores(queries, 0, 5), again.scores(queries, 0, 5))


def test_the_better_of_both_is_chosen_for_each_rule() -> None:
    sequences, catalogue = two_colours(), make_catalogue(SIZE)
    popularity = RecentPopularity.fit(sequences, catalogue, TIME, CONFIG, days=None)
    either = build_queries(sequences, catalogue, TIME, "validation", EvaluationConfig(), 4)
    unseen = either.excluding_seen()
    rules = [either, unseen.take(np.flatnonzero(unseen.truth.lengths))]
    counts = interaction_counts(sequences, SIZE)
    found = choose_matrix_factorisation(sequences, catalogue, popularity, rules, seed=1)
    als, bpr = (choose(counts, popularity, rules, 1) for choose in (choose_als, choose_bpr))
    assert [one.ndcg for one in found] == [max(pair) for pair in zip(_ndcgs(als), _ndcgs(bpr), strict=True)]
    assert found[0].baseline.settings()["model"] in ("als", "bpr")


def test_threads_of_the_linear_algebra_are_as_before(world: tuple[Sequences, Queries, Als, Bpr]) -> None:
    sequences, queries, *_ = world
    before = [pool["num_threads"] for pool in threadpool_info()]
    chosen(sequences, queries)
    assert [pool["num_threads"] for pool in threadpool_info()] == before


def _ndcgs(found: list) -> list[float]:
    return [one.ndcg for one in found]
