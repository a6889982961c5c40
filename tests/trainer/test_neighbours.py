"""Neighbours by behaviour, against counts that anyone can see."""

from dataclasses import replace

import numpy as np
from scipy import sparse

from tests.trainer.worlds import checkerboard_catalogue, checkerboard_sequences
from trainer.data import Sequences
from trainer.neighbours import neighbour_table, neighbours_by_purchases, neighbours_by_sessions
from transform.tables import EVENT_TYPES

VIEW, PURCHASE = EVENT_TYPES["view"], EVENT_TYPES["purchase"]


def sessions_of(*sessions: list[int], kind: int = VIEW) -> Sequences:
    """One shopper a session; all of it is training but for a last interaction with product 2."""
    rows = np.array([row for session in sessions for row in [*session, 2]], np.int32)
    lengths = np.array([len(session) + 1 for session in sessions])
    nothing = np.zeros(len(rows), np.int32)
    return Sequences(
        user_ids=np.array([f"shopper-{number}" for number in range(len(sessions))], dtype=object),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        train_end=lengths - 1,
        validation_end=lengths - 1,
        rows=rows,
        types=np.full(len(rows), kind, np.int8),
        labels=np.full(len(rows), 1 << kind, np.int32),
        timestamps=np.arange(len(rows), dtype=np.int64),
        sessions=nothing,
        baskets=np.arange(len(rows), dtype=np.int32),
        devices=nothing,
        regions=nothing,
    )


def test_strengths_are_shares_of_the_strongest() -> None:
    # 5 goes twice with 4 (met 3 times) and once with 6 (met once): 2 / √(2·3) and 1 / √(2·1), so 1 and 0.866.
    table = neighbours_by_sessions(sessions_of([4, 5], [4, 5, 6], [4]), checkerboard_catalogue(), 3)
    assert table.rows[5].tolist() == [4, 6, 0]
    np.testing.assert_allclose(table.strengths[5], [1, np.sqrt(3) / 2, 0], rtol=1e-6)


def test_only_the_strongest_are_kept() -> None:
    table = neighbours_by_sessions(sessions_of([4, 5], [4, 5, 6], [4]), checkerboard_catalogue(), 1)
    assert table.rows[5].tolist() == [4]


def test_product_that_nobody_met_has_no_neighbours() -> None:
    table = neighbours_by_sessions(sessions_of([4, 5]), checkerboard_catalogue(), 2)
    assert not table.rows[7].any()
    assert not table.strengths[7].any()
    # Product 2 stands beside others in the held-out interactions alone.
    assert not table.rows[2].any()


def test_what_is_not_available_is_nobody_s_neighbour() -> None:
    catalogue = checkerboard_catalogue()
    available = catalogue.available.copy()
    available[4] = False
    table = neighbours_by_sessions(sessions_of([4, 5, 6]), replace(catalogue, available=available), 2)
    assert table.rows[5].tolist() == [6, 0]
    assert table.rows[4].tolist() == [5, 6]


def test_bought_together_are_products_of_other_categories() -> None:
    category = np.arange(checkerboard_catalogue().size) % 2
    bought = neighbours_by_purchases(sessions_of([4, 5, 6], kind=PURCHASE), checkerboard_catalogue(), category, 3)
    assert bought.rows[4].tolist() == [5, 0, 0]
    assert bought.rows[5].tolist() == [4, 6, 0]


def test_views_are_no_purchases() -> None:
    category = np.arange(checkerboard_catalogue().size) % 2
    bought = neighbours_by_purchases(sessions_of([4, 5, 6]), checkerboard_catalogue(), category, 3)
    assert not bought.rows.any()


def test_table_may_have_no_column() -> None:
    table = neighbour_table(sparse.identity(5, np.float32, "csr"), np.ones(5, bool), 0)
    assert table.rows.shape == table.strengths.shape == (5, 0)


def test_checkerboard_has_sessions_of_one_product() -> None:
    assert not neighbours_by_sessions(checkerboard_sequences(), checkerboard_catalogue(), 2).rows.any()
