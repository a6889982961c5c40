"""The prior of new visitors: hand-worked smoothing, choice on validation, and the same answers in a graph."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from protos.feature_schema_pb2 import Clock
from tests.trainer.worlds import checkerboard_catalogue, checkerboard_sequences
from trainer.baselines import RecentPopularity
from trainer.config import EvaluationConfig
from trainer.data import Sequences
from trainer.newcomer_prior import (
    DEVICE,
    HOUR,
    REGION,
    Factor,
    FirstTakes,
    NewcomerPrior,
    Requests,
    choose_newcomer_prior,
    first_take_ndcg,
    first_takes,
)
from trainer.queries import Split
from trainer.served_prior import ServedPrior

SPLIT = Split("leave_one_out", None, None)
CONFIG = EvaluationConfig()


def with_newcomers(users_per_group: int = 120) -> Sequences:
    """The checkerboard's shoppers, each in the region of a colour; one half come for the first time in validation, an
    eighth in the test."""
    world = checkerboard_sequences(users_per_group=users_per_group)
    number = np.arange(len(world.lengths)) // 2
    validation, test = number % 2 == 1, number % 8 == 0
    return replace(
        world,
        train_end=np.where(validation | test, 0, world.train_end),
        validation_end=np.where(test, 0, world.validation_end),
    )


def chosen(sequences: Sequences, clock: tuple[str, ...] = ("hour",)) -> tuple[NewcomerPrior, dict]:
    catalogue = checkerboard_catalogue()
    catalogue.schema.clock.CopyFrom(Clock(features=clock))
    popularity = RecentPopularity.fit(sequences, catalogue, SPLIT, CONFIG, None)
    return choose_newcomer_prior(sequences, catalogue, SPLIT, CONFIG, popularity)


def requests(region: int, count: int = 1, device: int = 0, moment: int = 0) -> Requests:
    return Requests(np.full(count, device), np.full(count, region), np.full(count, moment, np.int64))


def test_region_that_decides_the_colour_is_told_apart() -> None:
    prior, report = chosen(with_newcomers())
    assert REGION in report["chosen"]["by"]
    assert report["best"]["gain"] > 2 * report["best"]["standard_error"]
    for span in ("validation", "test"):
        assert report[span]["by_segment"] > report[span]["overall"] > 0
    assert {factor.name for factor in prior.factors} == set(report["chosen"]["by"])


def test_shares_of_a_segment_are_smoothed_towards_the_whole_shop() -> None:
    """p(v | f) = (count + α p(v)) / (n + α), and the deviation is log p(v | f) / p(v), shifted by that of a product
    which the segment never took: log (count / p(v) + α) / α.
    """
    sequences = with_newcomers()
    prior, report = chosen(sequences)
    factor = next(factor for factor in prior.factors if factor.name == REGION)
    strength = report["chosen"]["strength"]
    row = 4  # white, bought in region 2 alone
    places = np.arange(len(sequences.rows)) - np.repeat(sequences.offsets[:-1], sequences.lengths)
    trained = places < np.repeat(sequences.train_end, sequences.lengths)
    count = (sequences.rows[trained] == row).sum()
    share = np.exp(np.float64(prior.scores[row]))
    place = prior.pool.tolist().index(row)
    expected = np.log(count / (strength * share) + 1)
    np.testing.assert_allclose(factor.log_odds[factor.value_of[2], place], expected, rtol=1e-4)
    # Nobody of region 3 took it; and nothing is known of value 0.
    assert factor.log_odds[factor.value_of[3], place] == 0
    assert not factor.log_odds[0].any()
    assert not factor.log_odds[:, -1].any()


def test_segments_that_change_nothing_are_not_told_apart() -> None:
    sequences = with_newcomers()
    rng = np.random.default_rng(0)
    shuffled = replace(sequences, regions=rng.integers(2, 4, len(sequences.rows)).astype(np.int32))
    prior, report = chosen(shuffled)
    assert REGION not in report["chosen"]["by"]
    assert not prior.factors or report["best"]["gain"] > 0


def test_the_hour_is_told_apart_only_where_models_may_read_it() -> None:
    sequences = with_newcomers()
    evening = np.where(sequences.regions == 3, 12 * 3_600, 0)
    sequences = replace(
        sequences, timestamps=sequences.timestamps + evening, regions=np.zeros(len(sequences.rows), np.int32)
    )
    assert chosen(sequences)[1]["chosen"]["by"] == [HOUR]
    prior, report = chosen(sequences, clock=("weekday",))
    assert (prior.factors, report["reason"]) == ((), "requests tell neither device nor region nor time")


def test_too_few_new_visitors_leave_the_overall_prior() -> None:
    sequences = checkerboard_sequences()
    prior, report = chosen(sequences)
    popularity = RecentPopularity.fit(sequences, checkerboard_catalogue(), SPLIT, CONFIG, None)
    assert report["chosen"] == {"by": [], "strength": None}
    assert report["visitors"] == 0
    np.testing.assert_array_equal(prior.scores, popularity.order_scores)


def test_first_takes_are_the_first_target_of_shoppers_without_a_history() -> None:
    world = checkerboard_sequences(users_per_group=2)
    # Shopper 1 comes in validation; shopper 2 first in the test.
    train, validation = world.train_end.copy(), world.validation_end.copy()
    train[[1, 2]], validation[2] = 0, 0
    sequences = replace(world, train_end=train, validation_end=validation)
    # Every third interaction, from the first, is a purchase; only views are asked for.
    config = EvaluationConfig(target_types=("view",))
    found = first_takes(sequences, "validation", config, True)
    assert found.rows.tolist() == [world.rows[world.offsets[1] + 1]]
    assert found.requests.timestamps.tolist() == [world.timestamps[world.offsets[1] + 1]]
    assert first_takes(sequences, "test", config, True).rows.tolist() == [world.rows[world.offsets[2] + 1]]


# Four products; phones (device 2) like the last, region 5 the one before.
TINY = NewcomerPrior(
    np.array([-9, -9, -1, -2, -3, -4], np.float32),
    np.array([2, 3, 4, 5], np.int32),
    (
        Factor(DEVICE, np.array([0, 0, 1], np.int32), np.array([[0] * 5, [0, 0, 0, 3.5, 0]], np.float32)),
        Factor(REGION, np.array([0, 0, 0, 0, 0, 1], np.int32), np.array([[0] * 5, [0, 0, 4, 0, 0]], np.float32)),
        Factor(HOUR, np.array([0, 0, 1, 0, 0], np.int32), np.array([[0] * 5, [0, 0, 0, 5, 0]], np.float32)),
    ),
)
SIX_IN_THE_MORNING = 86_400 + 6 * 3_600
LISTS = [
    # device, region, moment → the order of the rows
    (0, 0, 0, [2, 3, 4, 5]),
    (2, 0, 0, [5, 2, 3, 4]),  # −0.5, −1, −2, −3
    (1, 99, 0, [2, 3, 4, 5]),
    (0, 5, 0, [4, 2, 3, 5]),  # 1, −1, −2, −4
    (2, 5, 0, [4, 5, 2, 3]),  # 1, −0.5, −1, −2
    (0, 5, SIX_IN_THE_MORNING, [4, 5, 2, 3]),  # 1, 1 (5 stands behind in the overall order), −1, −2
    (0, 0, SIX_IN_THE_MORNING - 1, [2, 3, 4, 5]),
    (0, 0, SIX_IN_THE_MORNING, [5, 2, 3, 4]),
]


@pytest.mark.parametrize(("device", "region", "moment", "order"), LISTS)
def test_ndcg_of_a_first_take_is_that_of_its_place(device: int, region: int, moment: int, order: list[int]) -> None:
    takes = FirstTakes(np.array(order), requests(region, 4, device, moment))
    expected = 1 / np.log2([2.0, 3.0, 4.0, 5.0])
    np.testing.assert_allclose(first_take_ndcg(TINY, takes), expected)


def test_product_outside_of_the_pool_is_missed() -> None:
    prior = replace(TINY, pool=TINY.pool[:2], factors=())
    assert first_take_ndcg(prior, FirstTakes(np.array([5]), requests(0))).tolist() == [0]


def batch_of(kinds: list[tuple[int, int, int]]) -> dict[str, tf.Tensor]:
    devices, regions, moments = zip(*kinds, strict=True)
    return {
        "context_device": tf.constant(devices, tf.int32),
        "context_region": tf.constant(regions, tf.int32),
        "context_timestamp": tf.constant(moments, tf.int64),
    }


def test_graph_answers_as_the_measure_does() -> None:
    served = ServedPrior(TINY, np.array([False, False, True, True, True, True]), 4)
    rows, scores = served.lists(batch_of([line[:3] for line in LISTS]))
    assert rows.numpy().tolist() == [line[3] for line in LISTS]
    np.testing.assert_allclose(scores[1], [-0.5, -1, -2, -3], rtol=1e-6)


def test_list_of_a_segment_holds_recommendable_products_alone_and_is_full() -> None:
    served = ServedPrior(TINY, np.array([False, False, True, True, True, False]), 3)
    rows, _ = served.lists(batch_of([(2, 0, 0), (0, 5, 0)]))
    assert rows.numpy().tolist() == [[2, 3, 4], [4, 2, 3]]


def test_scores_of_given_products_are_those_of_the_list() -> None:
    served = ServedPrior(TINY, np.ones(6, bool), 4)
    found = served.of(batch_of([(2, 5, 0)]), tf.constant([[5, 4, 3, 2, 1, 0]]))
    np.testing.assert_allclose(found, [[-0.5, 1, -2, -1, -9, -9]], rtol=1e-6)
