"""Training windows over whole histories."""

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.worlds import checkerboard_sequences
from trainer.data import Sequences
from trainer.windows import NONE, TrainingWindows


def make_sequences(shoppers: list[list[int]], train: list[int] | None = None) -> Sequences:
    """Shoppers as the basket of each interaction; interaction i of all has catalogue row i + 2."""
    lengths = np.array([len(baskets) for baskets in shoppers])
    total = int(lengths.sum())
    train_end = lengths if train is None else np.array(train)
    zeros = np.zeros(total, np.int32)
    return Sequences(
        user_ids=np.array([f"shopper-{number}" for number in range(len(shoppers))], dtype=object),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        train_end=train_end,
        validation_end=train_end,
        rows=np.arange(total, dtype=np.int32) + 2,
        types=np.full(total, 2, np.int8),
        labels=np.full(total, 4, np.int32),
        timestamps=np.arange(total, dtype=np.int64) + 1_000,
        sessions=zeros,
        baskets=np.concatenate(shoppers).astype(np.int32),
        devices=zeros,
        regions=zeros,
    )


def pairs(windows: TrainingWindows, epoch: int = 0) -> list[tuple[int, int]]:
    """(interaction, target) of every slot that has a target; the slot before the first interaction is `NONE`."""
    found = []
    for batch in windows.epoch(epoch):
        there = batch.targets != NONE
        found += list(zip(batch.places[there].tolist(), batch.targets[there].tolist(), strict=True))
    return sorted(found)


def test_every_interaction_is_predicted_from_the_one_before() -> None:
    windows = TrainingWindows(make_sequences([[0, 1, 2], [0, 1]]), 8, 2, seed=1)
    assert pairs(windows) == [(NONE, 0), (NONE, 3), (0, 1), (1, 2), (3, 4)]


def test_interactions_after_the_training_span_are_neither_read_nor_predicted() -> None:
    windows = TrainingWindows(make_sequences([[0, 1, 2, 3], [0, 1]], train=[2, 0]), 8, 2, seed=1)
    assert pairs(windows) == [(NONE, 0), (0, 1)]
    places = np.concatenate([batch.places.ravel() for batch in windows.epoch(0)])
    assert set(places.tolist()) == {NONE, 0, 1}


def test_long_histories_are_cut_from_the_newest_without_losing_any() -> None:
    windows = TrainingWindows(make_sequences([list(range(20))]), 8, 1, seed=1)
    assert pairs(windows) == [(NONE, 0), *((place, place + 1) for place in range(19))]
    # 21 slots: the newest window ends with the last interaction and holds four to eight, anew in each epoch.
    newest = {
        tuple(places[places != NONE].tolist())
        for epoch in range(40)
        for places in (batch.places[0] for batch in windows.epoch(epoch))
        if places[-1] == 19
    }
    assert newest == {tuple(range(20 - size, 20)) for size in range(4, 9)}


def test_windows_are_left_padded_to_the_smallest_length_that_holds_them() -> None:
    windows = TrainingWindows(make_sequences([[0, 1, 2]]), 16, 1, seed=1)
    (batch,) = windows.epoch(0)
    # Four slots fit L/4 = 4; a batch of one window of 16 holds four of 4.
    assert batch.places.tolist() == [[NONE, 0, 1, 2], [NONE] * 4, [NONE] * 4, [NONE] * 4]
    assert batch.users.tolist() == [0, NONE, NONE, NONE]


def test_a_basket_is_predicted_from_the_one_before_and_never_from_itself() -> None:
    # Baskets {0, 1}, {2, 3, 4}, {5}.
    windows = TrainingWindows(make_sequences([[0, 0, 1, 1, 1, 2]]), 8, 1, seed=1)
    seen = set().union(*(pairs(windows, epoch) for epoch in range(40)))
    first, second = {NONE: (0, 1)}, dict.fromkeys((0, 1), (2, 3, 4))
    third = dict.fromkeys((2, 3, 4), (5,))
    expected = {(place, target) for group in (first, second, third) for place, all_ in group.items() for target in all_}
    assert seen == expected


def test_targets_can_be_drawn_from_several_following_baskets() -> None:
    # Baskets {0, 1}, {2}, {3}, {4}; the last lies after the training span.
    sequences = make_sequences([[0, 0, 1, 2, 3]], train=[4])
    windows = TrainingWindows(sequences, 8, 1, seed=1, target_baskets=2)
    seen = set().union(*(pairs(windows, epoch) for epoch in range(40)))
    assert seen == {(NONE, 0), (NONE, 1), (NONE, 2), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)}


def test_same_epoch_same_batches_other_epoch_another_order() -> None:
    sequences = checkerboard_sequences()

    def batches(epoch: int) -> list[list[int]]:
        return [batch.places.tolist() for batch in TrainingWindows(sequences, 8, 4, seed=1).epoch(epoch)]

    assert batches(3) == batches(3)
    assert batches(3) != batches(4)


def test_target_share_is_the_expected_frequency_of_targets() -> None:
    # Slot −1 → interaction 0 or 1; slots 0 and 1 → interaction 2: targets 0 and 1 half each, 2 twice; sum 3.
    windows = TrainingWindows(make_sequences([[0, 0, 1]]), 8, 1, seed=1)
    np.testing.assert_allclose(windows.target_share(5), [0, 0, 1 / 6, 1 / 6, 2 / 3])


def test_inputs_are_the_interactions_of_the_slots() -> None:
    sequences = replace(make_sequences([[0, 1, 2]]), rows=np.array([9, 8, 7], np.int32))
    windows = TrainingWindows(sequences, 4, 1, seed=1)
    (batch,) = windows.epoch(0)
    history = windows.history(batch)
    assert history["history_rows"].tolist() == [[0, 9, 8, 7]]
    assert history["history_types"].tolist() == [[0, 2, 2, 2]]
    assert history["history_timestamps"].tolist() == [[0, 1_000, 1_001, 1_002]]
    assert windows.target_rows(batch).tolist() == [[9, 8, 7, 0]]
    # The newest interaction has no target in training.
    assert history["context_timestamp"].tolist() == [0]


def test_the_request_of_a_window_is_when_its_newest_target_came() -> None:
    windows = TrainingWindows(make_sequences([[0, 1, 2]]), 2, 1, seed=1)
    seen = {
        frozenset(
            time for batch in windows.epoch(epoch) for time in windows.history(batch)["context_timestamp"].tolist()
        )
        for epoch in range(20)
    }
    # Cut as [−1, 0 | 1, 2] slot 0 predicts the interaction at 1,001, the newest none; cut as [−1 | 0, 1 | 2] slot −1
    # predicts that at 1,000 and slot 1 that at 1,002.
    assert seen == {frozenset({0, 1_001}), frozenset({1_000, 1_002, 0})}


@settings(max_examples=40)
@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=40), min_size=1, max_size=8),
    st.integers(1, 20),
    st.integers(1, 5),
)
def test_each_slot_appears_once_and_targets_lie_in_the_next_basket(
    steps: list[list[int]], length: int, batch_size: int
) -> None:
    sequences = make_sequences([np.cumsum(step).tolist() for step in steps])
    windows = TrainingWindows(sequences, length, batch_size, seed=1)
    batches = list(windows.epoch(0))
    assert len(batches) == windows.steps
    assert sum(batch.windows for batch in batches) == windows.count
    places = np.concatenate([batch.places.ravel() for batch in batches])
    assert sorted(places[places != NONE].tolist()) == list(range(len(sequences.rows)))
    owner = np.repeat(np.arange(len(steps)), sequences.lengths)
    for place, target in pairs(windows):
        if place == NONE:
            assert sequences.baskets[target] == sequences.baskets[sequences.offsets[owner[target]]]
        else:
            assert owner[place] == owner[target]
            between = sequences.baskets[place:target]
            assert sequences.baskets[target] > sequences.baskets[place]
            assert set(between.tolist()) <= {sequences.baskets[place], sequences.baskets[target]}
