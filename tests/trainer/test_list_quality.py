"""The measure of lists beside a product, on lists that can be worked out by hand."""

import numpy as np
import pytest

from tests.trainer.test_neighbours import PURCHASE, sessions_of
from trainer.index import BruteForceIndex
from trainer.list_quality import Pairs, bought_together, found_by_share, next_clicks
from trainer.neighbours import Neighbours
from trainer.queries import Span


def test_next_clicks_are_the_following_other_products_of_the_session() -> None:
    sequences = sessions_of([4, 5, 5, 6], [7])
    held_out = type(sequences)(**(vars(sequences) | {"train_end": np.zeros(2, np.int64)}))
    # The last interaction of each shopper, product 2, lies in the test.
    pairs = next_clicks(held_out, "validation", 1)
    assert list(zip(pairs.asked.tolist(), pairs.wanted.tolist(), strict=True)) == [(4, 5), (5, 6)]


@pytest.mark.parametrize(("span", "expected"), [("validation", [(4, 5), (5, 4), (5, 6), (6, 5)]), ("test", [])])
def test_bought_together_are_neighbours_of_other_categories(span: Span, expected: list[tuple[int, int]]) -> None:
    sequences = sessions_of([4, 5, 6, 8], kind=PURCHASE)
    held_out = type(sequences)(**(vars(sequences) | {"train_end": np.zeros(1, np.int64)}))
    pairs = bought_together(held_out, span, np.arange(10) % 2, 1)
    assert list(zip(pairs.asked.tolist(), pairs.wanted.tolist(), strict=True)) == expected


def test_share_found_depends_on_the_weight_of_behaviour() -> None:
    # Product 2 lies at angle 0, the others further and further away: 13 is its eleventh nearest, 20 is far.
    angles = np.concatenate([[0, 0], np.linspace(0, 1.5, 19)])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    rows = np.arange(2, 21, dtype=np.int32)
    index = BruteForceIndex(20).index(vectors[rows], rows)
    beside = Neighbours(np.zeros((21, 1), np.int32), np.zeros((21, 1), np.float32))
    beside.rows[2], beside.strengths[2] = 20, 1
    pairs = Pairs(np.array([2, 2, 2, 3]), np.array([20, 13, 12, 2]))
    found = found_by_share(index, vectors, beside, pairs, (0.0, 0.5, 1.0))
    # By vectors 12 and, for product 3, 2. With behaviour 20 takes the place of 12; 13 is never among ten.
    assert found == {0.0: 0.5, 0.5: 0.5, 1.0: 0.5}
    # Cosine of the eleventh nearest is 0.67, of 20 0.07: at a weight of 0.3 20 has 0.35 and stays outside.
    assert found_by_share(index, vectors, beside, Pairs(pairs.asked[:1], pairs.wanted[:1]), (0.3, 0.5)) == {
        0.3: 0.0,
        0.5: 1.0,
    }


def test_own_category_is_left_out() -> None:
    vectors = np.eye(6, dtype=np.float32) + 1
    rows = np.arange(2, 6, dtype=np.int32)
    nothing = Neighbours(np.zeros((6, 1), np.int32), np.zeros((6, 1), np.float32))
    pairs = Pairs(np.array([2, 2]), np.array([4, 3]))
    index = BruteForceIndex(4).index(vectors[rows], rows)
    assert found_by_share(index, vectors, nothing, pairs, (0.0,), np.array([-1, -1, 0, 1, 0, 1])) == {0.0: 0.5}
