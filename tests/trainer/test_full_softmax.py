"""The chunked softmax over the catalogue: numbers worked by hand, and the same loss written plainly."""

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from trainer.full_softmax import (
    first_seen_slots,
    full_softmax_loss,
    full_softmax_loss_with_repeats,
    log_partition,
)

DIM, PRODUCTS = 6, 19


def test_by_hand() -> None:
    # Logits of the first slot: (0, ln 3) → p = (1/4, 3/4), target 1 → −ln 3/4. Second: (ln 2, ln 2) → ln 2, with weight
    # 3. Third: no target. Fourth: weight 0. Mean = (ln 4/3 + 3 ln 2) / 4.
    states = tf.constant([[1.0], [0.0], [5.0], [7.0]])
    loss = full_softmax_loss(
        states,
        table=tf.constant([[0.0], [np.log(3)]], tf.float32),
        targets=tf.constant([1, 0, -1, 0]),
        weights=tf.constant([1.0, 3.0, 1.0, 0.0]),
    )
    assert float(loss) == pytest.approx((np.log(4 / 3) + 3 * np.log(2)) / 4, abs=1e-6)


def test_temperature_by_hand() -> None:
    # Logits (ln 3) / 2 · 2 = ln 3 and (ln 2) / 2 · 2 = ln 2: p = (3/5, 2/5).
    loss = full_softmax_loss(
        states=tf.ones([1, 1]),
        table=tf.constant([[np.log(3) / 2], [np.log(2) / 2]], tf.float32),
        targets=tf.constant([1]),
        weights=tf.ones([1]),
        temperature=0.5,
    )
    assert float(loss) == pytest.approx(-np.log(2 / 5), abs=1e-6)


def test_what_was_met_is_no_rival_by_hand() -> None:
    # Three products of equal logit. Window of two slots: product 2 is met at slot 0, product 0 at slot 1.
    first_seen = first_seen_slots(tf.constant([[2, 0]]), 3)
    assert first_seen.numpy().tolist() == [[1, 2, 0]]

    def loss(targets: list[int], weights: list[float]) -> float:
        states, table, weight = tf.zeros([2, 1]), tf.ones([3, 1]), tf.constant(weights, tf.float32)
        return float(full_softmax_loss(states, table, tf.constant(targets), weight, first_seen=first_seen))

    # Slot 0: rivals 0 and 1. Slot 1: product 1 alone is left; met products count where they are the target.
    assert loss([1, 0], [1, 0]) == pytest.approx(np.log(2), abs=1e-6)
    assert loss([1, 1], [0, 1]) == pytest.approx(0, abs=1e-6)
    assert loss([1, 0], [0, 1]) == pytest.approx(np.log(2), abs=1e-6)


def test_first_seen_leaves_out_padding() -> None:
    first_seen = first_seen_slots(tf.constant([[-1, 1, 1], [-1, -1, 0]]), 2)
    assert first_seen.numpy().tolist() == [[3, 1], [2, 3]]


@pytest.mark.parametrize("scale", [1.0, 40.0], ids=["plain", "with logits beyond the range of exp"])
@pytest.mark.parametrize("masked", [False, True], ids=["all", "unmet"])
def test_loss_and_gradients_equal_the_plain_form(scale: float, masked: bool) -> None:
    # 37 windows of 20 slots: more than one chunk, the last one filled up.
    states, table, targets, weights, history_rows = _world(windows=37, length=20, scale=scale)

    def ours(states: tf.Tensor, table: tf.Tensor) -> tf.Tensor:
        first_seen = first_seen_slots(history_rows, PRODUCTS) if masked else None
        return full_softmax_loss(states, table, targets, weights, 0.7, first_seen)

    def plain(states: tf.Tensor, table: tf.Tensor) -> tf.Tensor:
        logits = tf.matmul(states, table, transpose_b=True) / 0.7
        if masked:
            left_out = _met_up_to(history_rows) & (np.arange(PRODUCTS) != targets.numpy()[:, np.newaxis])
            logits = tf.where(left_out, -np.inf, logits)
        return _weighted_mean(logits, targets, weights)

    _assert_same(ours, plain, [states, table])


def test_gains_of_met_products_equal_the_plain_form() -> None:
    states, table, targets, weights, history_rows = _world(windows=37, length=20)
    gains = tf.constant(np.random.default_rng(3).normal(size=(37, 20, 20)), tf.float32)

    def of_met(gains: tf.Tensor) -> tf.Tensor:
        return tf.where(history_rows[:, tf.newaxis] >= 0, tf.linalg.band_part(gains, -1, 0), 0.0)

    def ours(states: tf.Tensor, table: tf.Tensor, gains: tf.Tensor) -> tf.Tensor:
        return full_softmax_loss_with_repeats(states, table, targets, weights, history_rows, of_met(gains), 0.7)

    def plain(states: tf.Tensor, table: tf.Tensor, gains: tf.Tensor) -> tf.Tensor:
        gained = tf.reshape(tf.matmul(of_met(gains), tf.one_hot(history_rows, PRODUCTS)), [-1, PRODUCTS])
        return _weighted_mean((tf.matmul(states, table, transpose_b=True) + gained) / 0.7, targets, weights)

    _assert_same(ours, plain, [states, table, gains], compiled=True)


def test_cost_by_hand() -> None:
    # p = (1/4, 3/4): the mean cost is 1/4 · 8 + 3/4 · 4 = 5; its derivatives are 1/4 (8 − 5) and 3/4 (4 − 5).
    with tf.GradientTape() as tape:
        table = tf.constant([[0.0], [np.log(3)]], tf.float32)
        tape.watch(table)
        costs = tf.constant([8.0, 4.0])
        loss = full_softmax_loss(tf.ones([1, 1]), table, tf.constant([0]), tf.ones([1]), costs=costs)
    assert float(loss) == pytest.approx(np.log(4) + 5, abs=1e-5)
    gradient = tf.convert_to_tensor(tape.gradient(loss, table))
    np.testing.assert_allclose(gradient[:, 0], [1 / 4 - 1 + 3 / 4, 3 / 4 - 3 / 4], atol=1e-5)


def test_cost_is_that_of_the_rivals_a_window_has_not_met() -> None:
    states, table, targets, weights, history_rows = _world(windows=37, length=20)
    costs = tf.constant(np.random.default_rng(5).normal(size=PRODUCTS), tf.float32)
    unmet = tf.constant(~_met_up_to(history_rows))
    # A slot that has met everything has no rivals, and the plain form no numbers.
    weights = tf.where(tf.reduce_any(unmet, axis=1), weights, 0.0)

    def ours(states: tf.Tensor, table: tf.Tensor) -> tf.Tensor:
        first_seen = first_seen_slots(history_rows, PRODUCTS)
        return full_softmax_loss(states, table, targets, weights, first_seen=first_seen, costs=costs)

    def plain(states: tf.Tensor, table: tf.Tensor) -> tf.Tensor:
        logits = tf.matmul(states, table, transpose_b=True)
        counted = tf.where(unmet | tf.cast(tf.one_hot(targets, PRODUCTS), tf.bool), logits, -1e9)
        mean_costs = tf.reduce_sum(tf.nn.softmax(tf.where(unmet, logits, -1e9)) * costs, axis=1)
        counts = tf.where(targets >= 0, weights, 0.0)
        mean_cost = tf.reduce_sum(mean_costs * counts) / tf.reduce_sum(counts)
        return _weighted_mean(counted, targets, weights) + mean_cost

    _assert_same(ours, plain, [states, table])


def test_gradient_in_bfloat16_is_nearly_the_same() -> None:
    rng = np.random.default_rng(4)
    states, table = (tf.constant(rng.normal(size=(rows, 64)) / 4, tf.float32) for rows in (512, 1_000))
    targets, weights = tf.constant(rng.integers(0, 1_000, 512), tf.int32), tf.ones([512])
    results = []
    for dtype in (tf.float32, tf.bfloat16):
        with tf.GradientTape() as tape:
            tape.watch([states, table])
            loss = full_softmax_loss(states, table, targets, weights, gradient_dtype=dtype)
        results.append((loss, *tape.gradient(loss, [states, table])))
    (loss, *exact), (same_loss, *near) = results
    np.testing.assert_allclose(loss, same_loss, rtol=1e-6)
    for one, other in zip(exact, near, strict=True):
        one, other = tf.convert_to_tensor(one).numpy(), tf.convert_to_tensor(other).numpy()
        assert 0 < np.linalg.norm(one - other) < 0.01 * np.linalg.norm(one)


def test_nothing_to_count_is_a_loss_of_zero_without_gradient() -> None:
    states, table = tf.ones([4, 2]), tf.ones([3, 2])
    with tf.GradientTape() as tape:
        tape.watch(states)
        loss = full_softmax_loss(states, table, targets=tf.fill([4], -1), weights=tf.ones([4]))
    assert float(loss) == 0
    assert not np.any(tape.gradient(loss, states))


def test_partition_counts_what_stands_beside_the_table() -> None:
    # ln(1 + 1 + 3) at weight 2; derivative by the other: 2 · 3/5.
    others = tf.constant([np.log(3)], tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(others)
        total = log_partition(tf.zeros([1, 1]), tf.ones([2, 1]), others, tf.constant([2.0]))
    assert float(total) == pytest.approx(2 * np.log(5), abs=1e-6)
    assert float(tape.gradient(total, others)[0]) == pytest.approx(6 / 5, abs=1e-6)


def _world(windows: int, length: int, scale: float = 1.0) -> tuple[tf.Tensor, ...]:
    """States, table, targets with gaps, weights with zeros, histories with left padding and repeats."""
    rng = np.random.default_rng(1)
    slots = windows * length
    history_rows = rng.integers(0, PRODUCTS, (windows, length))
    history_rows[np.arange(length) < rng.integers(0, length, (windows, 1))] = -1
    return (
        tf.constant(scale * rng.normal(size=(slots, DIM)), tf.float32),
        tf.constant(rng.normal(size=(PRODUCTS, DIM)), tf.float32),
        tf.constant(rng.integers(-1, PRODUCTS, slots), tf.int32),
        tf.constant(rng.random(slots) * (rng.random(slots) < 0.8), tf.float32),
        tf.constant(history_rows, tf.int32),
    )


def _met_up_to(history_rows: tf.Tensor) -> np.ndarray:
    """Bool [B · L, V]: products of the window at this slot or before."""
    return np.maximum.accumulate(tf.one_hot(history_rows, PRODUCTS).numpy() > 0, axis=1).reshape(-1, PRODUCTS)


def _weighted_mean(logits: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    weights = tf.where(targets >= 0, weights, 0.0)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(targets, 0), logits)
    return tf.reduce_sum(tf.where(weights > 0, losses * weights, 0.0)) / tf.reduce_sum(weights)


def _assert_same(ours: Callable, plain: Callable, variables: list[tf.Tensor], compiled: bool = False) -> None:
    """Same value and same gradients; `compiled`: inside a step that XLA compiles whole."""
    with tf.GradientTape() as tape:
        tape.watch(variables)
        expected = 3 * plain(*variables)
    gradients = tape.gradient(expected, variables)

    def step(*variables: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            tape.watch(variables)
            loss = 3 * ours(*variables)
        return loss, [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, variables)]

    loss, own = step(*variables) if not compiled else tf.function(step, jit_compile=True)(*variables)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    for one, other in zip(own, gradients, strict=True):
        other = tf.convert_to_tensor(other).numpy()
        np.testing.assert_allclose(one, other, atol=2e-5 * np.abs(other).max())
