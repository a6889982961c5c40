"""Queries: whose history, up to when, and which products are the right answers."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.trainer.small_shop import LEAVE_ONE_OUT, PURCHASE, TIME, VIEW, make_catalogue, make_sequences
from trainer.config import EvaluationConfig
from trainer.queries import (
    Lists,
    Queries,
    build_queries,
    build_rolling_queries,
    load_split,
    sample_users,
    validation_queries,
)

CONFIG = EvaluationConfig()

SHOPPERS = {
    # Truth of the test span: 5 once, 3 (seen before), 6.
    "ann": [
        *[(2, 10, VIEW), (3, 20, PURCHASE), (4, 150, VIEW)],
        *[(5, 210, VIEW), (5, 220, PURCHASE), (3, 230, PURCHASE), (6, 230, PURCHASE)],
    ],
    # Nothing after the cut-offs.
    "bob": [(2, 10, VIEW), (7, 30, VIEW)],
    # New in the test span.
    "cy": [(4, 205, VIEW), (8, 206, VIEW)],
}


def truth_of(queries: Queries) -> list[list[int]]:
    return [rows.tolist() for rows in np.split(queries.truth.rows, queries.truth.offsets[1:-1])]


def test_time_split_asks_shoppers_with_a_history_for_their_later_distinct_products() -> None:
    queries = build_queries(make_sequences(SHOPPERS), make_catalogue(), TIME, "test", CONFIG, 4)
    assert queries.users.tolist() == [0]
    assert truth_of(queries) == [[3, 5, 6]]
    assert queries.context_timestamps.tolist() == [200]


def test_validation_history_ends_where_training_ends() -> None:
    queries = build_queries(make_sequences(SHOPPERS), make_catalogue(), TIME, "validation", CONFIG, 4)
    assert queries.batch(0, 1)["history_rows"].tolist() == [[0, 0, 2, 3]]
    assert truth_of(queries) == [[4]]
    assert queries.context_timestamps.tolist() == [100]


def test_batch_is_left_padded_with_the_newest_last() -> None:
    queries = build_queries(make_sequences(SHOPPERS), make_catalogue(), TIME, "test", CONFIG, 5)
    batch = queries.batch(0, 1)
    assert batch["history_rows"].tolist() == [[0, 0, 2, 3, 4]]
    assert batch["history_types"].tolist() == [[0, 0, VIEW, PURCHASE, VIEW]]
    assert batch["history_timestamps"].tolist() == [[0, 0, 10, 20, 150]]
    assert batch["context_device"].tolist() == [12]
    assert [array.dtype.name for array in batch.values()] == ["int32", "int32", "int64", "int64", "int32", "int32"]


def test_batch_keeps_only_the_newest_of_a_long_history() -> None:
    queries = build_queries(make_sequences(SHOPPERS), make_catalogue(), TIME, "test", CONFIG, 2)
    assert queries.batch(0, 1)["history_rows"].tolist() == [[3, 4]]


def test_batch_is_filled_up_with_empty_histories() -> None:
    queries = build_queries(make_sequences(SHOPPERS), make_catalogue(), TIME, "test", CONFIG, 2)
    batch = queries.batch(0, 1, size=3, history_length=4)
    assert batch["history_rows"].tolist() == [[0, 2, 3, 4], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert batch["context_timestamp"].tolist() == [200, 0, 0]
    assert batch["context_device"].tolist() == [12, 0, 0]


def test_shoppers_without_history_are_counted_and_asked_apart() -> None:
    sequences, catalogue = make_sequences(SHOPPERS), make_catalogue()
    headline = build_queries(sequences, catalogue, TIME, "test", CONFIG, 4)
    assert headline.counts["shoppers_without_history"] == 1
    visitors = build_queries(sequences, catalogue, TIME, "test", CONFIG, 4, new_visitors=True)
    assert visitors.users.tolist() == [2]
    assert truth_of(visitors) == [[4, 8]]
    assert visitors.batch(0, 1)["history_rows"].tolist() == [[0, 0, 0, 0]]


def test_product_not_known_before_the_cut_off_is_neither_truth_nor_candidate() -> None:
    # Product 6 is first seen in the very second of the cut-off: known only by what the truth tells.
    catalogue = make_catalogue(known_from={6: 200, 5: 199})
    queries = build_queries(make_sequences(SHOPPERS), catalogue, TIME, "test", CONFIG, 4)
    assert truth_of(queries) == [[3, 5]]
    assert queries.counts["truth_not_yet_known"] == 1
    assert np.flatnonzero(queries.excluded(0, 1)[0]).tolist() == [0, 1, 6]


def test_excluding_seen_takes_the_whole_history_from_candidates_and_truth() -> None:
    # A history length of 1 does not shorten what counts as seen.
    queries = build_queries(make_sequences(SHOPPERS), make_catalogue(), TIME, "test", CONFIG, 1)
    unseen = queries.excluding_seen()
    assert truth_of(unseen) == [[5, 6]]
    assert unseen.counts["truth_seen_before"] == 1
    assert np.flatnonzero(unseen.excluded(0, 1)[0]).tolist() == [0, 1, 2, 3, 4]


def test_target_types_choose_whose_events_are_the_truth() -> None:
    config = EvaluationConfig(target_types=("view",))
    queries = build_queries(make_sequences(SHOPPERS), make_catalogue(), TIME, "test", config, 4)
    assert truth_of(queries) == [[5]]


def test_unknown_target_type_is_named() -> None:
    config = EvaluationConfig(target_types=("buy",))
    with pytest.raises(ValueError, match=r"received 'buy'\. Known: .*purchase"):
        build_queries(make_sequences(SHOPPERS), make_catalogue(), TIME, "test", config, 4)


def test_leave_one_out_asks_for_the_last_interaction_and_excludes_the_history() -> None:
    shoppers = {"ann": [(row, moment, VIEW) for moment, row in enumerate([2, 3, 4, 5], 1)], "bob": [(2, 1, VIEW)]}
    sequences = make_sequences(shoppers, LEAVE_ONE_OUT)
    catalogue = make_catalogue(size=7, clock=False)
    test = build_queries(sequences, catalogue, LEAVE_ONE_OUT, "test", CONFIG, 3)
    assert truth_of(test) == [[5]]
    assert np.flatnonzero(test.excluded(0, 1)[0]).tolist() == [0, 1, 2, 3, 4]
    assert test.batch(0, 1)["history_timestamps"].tolist() == [[0, 0, 0]]
    validation = build_queries(sequences, catalogue, LEAVE_ONE_OUT, "validation", CONFIG, 3)
    assert truth_of(validation) == [[4]]
    assert validation.batch(0, 1)["history_rows"].tolist() == [[0, 2, 3]]


def test_leave_one_out_ranks_a_repeat_instead_of_excluding_the_answer() -> None:
    sequences = make_sequences({"ann": [(2, 1, VIEW), (3, 2, VIEW), (4, 3, VIEW), (2, 4, VIEW)]}, LEAVE_ONE_OUT)
    queries = build_queries(sequences, make_catalogue(size=6), LEAVE_ONE_OUT, "test", CONFIG, 3)
    assert np.flatnonzero(queries.excluded(0, 1)[0]).tolist() == [0, 1, 3, 4]


def test_rolling_queries_ask_for_each_basket_with_everything_before_as_history() -> None:
    queries = build_rolling_queries(make_sequences(SHOPPERS), make_catalogue(), TIME, "test", CONFIG, 6)
    assert queries.users.tolist() == [0, 0, 0, 2]
    # 3 and 6 were bought in one order; the new visitor's first interaction has no history to ask with.
    assert truth_of(queries) == [[5], [5], [3, 6], [8]]
    assert queries.batch(2, 4)["context_device"].tolist() == [15, 20]
    assert queries.batch(2, 4)["history_rows"].tolist() == [[0, 2, 3, 4, 5, 5], [0, 0, 0, 0, 0, 4]]
    assert queries.context_timestamps.tolist() == [210, 220, 230, 206]


def test_rolling_candidates_are_the_products_known_at_each_moment() -> None:
    catalogue = make_catalogue(size=9, known_from={7: 215})
    queries = build_rolling_queries(make_sequences(SHOPPERS), catalogue, TIME, "test", CONFIG, 6)
    assert queries.excluded(0, 3)[:, 7].tolist() == [True, False, False]


def test_take_keeps_truth_beside_its_query() -> None:
    queries = build_rolling_queries(make_sequences(SHOPPERS), make_catalogue(), TIME, "test", CONFIG, 6)
    assert truth_of(queries.take(np.array([3, 2]))) == [[8], [3, 6]]


def test_history_ages_count_back_from_the_newest() -> None:
    queries = build_rolling_queries(make_sequences(SHOPPERS), make_catalogue(), TIME, "test", CONFIG, 6)
    owners, rows, ages = queries.history(0, 2)
    assert owners.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert rows.tolist() == [2, 3, 4, 2, 3, 4, 5]
    assert ages.tolist() == [2, 1, 0, 3, 2, 1, 0]


def test_hash_sample_does_not_depend_on_who_else_is_there() -> None:
    shoppers = {f"u{number}": [(2, 10, VIEW)] for number in range(50)}
    sequences = make_sequences(shoppers)
    everyone = sample_users(sequences, np.arange(50), 10, seed=1)
    assert len(everyone) == 10
    again = sample_users(sequences, np.union1d(everyone, np.arange(5)), 10, seed=1)
    assert again.tolist() == everyone.tolist()
    assert sample_users(sequences, np.arange(50), 10, seed=2).tolist() != everyone.tolist()


def test_split_is_read_from_the_transforms_statistics(tmp_path: Path) -> None:
    split = {"method": "time", "validation_start": 100, "test_start": 200}
    (tmp_path / "statistics.json").write_text(json.dumps({"split": split}))
    assert load_split(tmp_path) == TIME


# In the validation span ann views 4 and buys 2 again, bob views 5.
VALIDATED = {
    "ann": [(2, 10, VIEW), (3, 20, VIEW), (4, 150, VIEW), (2, 160, PURCHASE)],
    "bob": [(2, 10, VIEW), (5, 150, VIEW)],
}


@pytest.mark.parametrize(
    ("config", "truth"),
    [
        (None, [[2, 4], [5]]),
        (EvaluationConfig(exclude_seen=True), [[4], [5]]),
        (EvaluationConfig(target_types=("purchase",)), [[2]]),
    ],
)
def test_validation_in_training_asks_by_the_runs_protocol(
    tmp_path: Path, config: EvaluationConfig | None, truth: list[list[int]]
) -> None:
    split = {"method": "time", "validation_start": 100, "test_start": 200}
    (tmp_path / "statistics.json").write_text(json.dumps({"split": split}))
    queries = validation_queries(tmp_path, make_sequences(VALIDATED), make_catalogue(), 4, 0, config)
    assert truth_of(queries) == truth


def test_validation_that_asks_for_nothing_names_what_to_change(tmp_path: Path) -> None:
    split = {"method": "time", "validation_start": 100, "test_start": 200}
    (tmp_path / "statistics.json").write_text(json.dumps({"split": split}))
    config = EvaluationConfig(target_types=("add_to_cart",))
    with pytest.raises(ValueError, match=r"that are asked for, received .* widen evaluation\.target_types"):
        validation_queries(tmp_path, make_sequences(VALIDATED), make_catalogue(), 4, 0, config)


def test_lists_where_keeps_lists_that_become_empty() -> None:
    lists = Lists(np.array([0, 2, 3]), np.array([5, 6, 7], np.int32)).where(np.array([True, True, False]))
    assert lists.offsets.tolist() == [0, 2, 2]
