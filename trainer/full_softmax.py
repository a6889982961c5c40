"""Softmax loss over a whole catalogue whose logits are never all in memory.

Loss and gradients come from one kernel that XLA compiles, chunk of slots by chunk of slots: three matrix products a
chunk, and one pass over its logits between them. With slots X [C, d], products E [V, d] and P = exp(X Eᵀ) [C, V],

    Z = P 1,    loss = Σ w (log Z − own logit),    dX = w / Z · P E,    dE = Pᵀ (w / Z · X),

so that the normalisation and the target, which a softmax would work into [C, V], touch only [C, d].
"""

from collections.abc import Callable

import tensorflow as tf

# Slots in a chunk, whose logits take 4 · V bytes each, twice. From 256 to 1,600 the speed differs by a few per
# cent only: larger ones read the table less often, smaller ones stay in the caches.
_CHUNK_SLOTS = 640
# Logits within ± this need no maximum taken out first: neither e⁶⁰ summed over ten million products nor a weight
# divided by that leaves the range of float32.
_PLAIN_EXPONENT = 60.0
# Logit of what does not count: finite, since the gradient of a log-sum-exp of nothing but −∞ is not a number.
_NEVER = -1e30


def full_softmax_loss(
    states: tf.Tensor,
    table: tf.Tensor,
    targets: tf.Tensor,
    weights: tf.Tensor,
    temperature: float = 1.0,
    first_seen: tf.Tensor | None = None,
    costs: tf.Tensor | None = None,
    gradient_dtype: tf.DType = tf.float32,
) -> tf.Tensor:
    """Weighted mean cross-entropy, in nats, of the targets under softmax(states · tableᵀ / temperature).

    Args:
        states: [N, d].
        table: [V, d].
        targets: int32 [N] in [0, V); negative = no target, not counted.
        weights: float32 [N]; 0 = not counted. The mean of no weight is 0.
        temperature: above 0, divides all logits, so that the order of products does not depend on it.
        first_seen: int32 [B, V] from `first_seen_slots`, where slots are B windows end to end, N = B · L: what the
            window met up to a slot is no rival of the slot's target. The target itself always counts.
        costs: [V]: the mean cost of a product drawn from the softmax over the rivals (without what `first_seen` leaves
            out) is added to the slot's loss; see `losses.popularity_costs`.
        gradient_dtype: of the two products that make the gradients. With bfloat16, whose numbers have eight bits,
            they cost half and the gradients are off by some thousandths; the loss stays exact.
    """
    weights = _normalised(weights, targets)
    rows = tf.maximum(targets, 0)
    states = states / temperature
    own = tf.reduce_sum(states * tf.gather(table, rows), axis=1)
    others = tf.fill(own.shape, _NEVER)
    if first_seen is not None:
        others = tf.where(_met(first_seen, rows), own, others)
    partitions = log_partition(states, table, others, weights, first_seen, costs, gradient_dtype)
    return partitions - tf.reduce_sum(weights * own)


def full_softmax_loss_with_repeats(
    states: tf.Tensor,
    table: tf.Tensor,
    targets: tf.Tensor,
    weights: tf.Tensor,
    history_rows: tf.Tensor,
    gains: tf.Tensor,
    temperature: float = 1.0,
    costs: tf.Tensor | None = None,
    gradient_dtype: tf.DType = tf.float32,
) -> tf.Tensor:
    """`full_softmax_loss` where a product that the window met gains something in addition: the products of a window
    are few, so that their logits are made apart, [N, L], and those of the table keep their plain form.

    Args:
        states: [B · L, d].
        table: [V, d].
        targets: int32 [B · L] in [0, V); negative = no target, not counted.
        weights: float32 [B · L]; 0 = not counted.
        history_rows: int32 [B, L] in [0, V); negative = padding or a product without a row of the table.
        gains: [B, L, L], see `repeats.RepeatWeights`: what the product of slot j gains at slot t; 0 for j > t. Gains of
            a product that was met several times add up.
        temperature: above 0, divides all logits.
        costs: see `full_softmax_loss`; what the window met costs nothing.
        gradient_dtype: see `full_softmax_loss`.
    """
    weights = _normalised(weights, targets)
    states = states / temperature
    met, of_target = _met_logits(
        states, table, tf.reshape(targets, history_rows.shape), history_rows, gains / temperature
    )
    plain = tf.reduce_sum(states * tf.gather(table, tf.maximum(targets, 0)), axis=1)
    gained = tf.reduce_sum(tf.where(of_target, met, 0.0), axis=1)
    own = tf.where(tf.reduce_any(of_target, axis=1), gained, plain)
    first_seen = first_seen_slots(history_rows, table.shape[0])
    others = tf.reduce_logsumexp(met, axis=1)
    partitions = log_partition(states, table, others, weights, first_seen, costs, gradient_dtype)
    return partitions - tf.reduce_sum(weights * own)


def first_seen_slots(history_rows: tf.Tensor, products: int) -> tf.Tensor:
    """First slot at which a window met each product; L = never: int32 [B, L] (negative = none) → int32 [B, V]."""
    windows, length = history_rows.shape
    slots = tf.broadcast_to(tf.range(length), [windows, length])
    lines = tf.broadcast_to(tf.range(windows)[:, tf.newaxis], [windows, length])
    places = tf.stack([lines, tf.maximum(history_rows, 0)], axis=-1)
    never = tf.fill([windows, products], length)
    return tf.tensor_scatter_nd_min(never, places, tf.where(history_rows >= 0, slots, length))


def log_partition(
    states: tf.Tensor,
    table: tf.Tensor,
    others: tf.Tensor,
    weights: tf.Tensor,
    first_seen: tf.Tensor | None = None,
    costs: tf.Tensor | None = None,
    gradient_dtype: tf.DType = tf.float32,
) -> tf.Tensor:
    """Σ over slots of weight · log(Σ over products of exp(state · product) + exp(other)): the costly half of a softmax.

    Args:
        states: [N, d].
        table: [V, d].
        others: [N], log of what counts beside the table; a slot whose products are all left out needs one.
        weights: float32 [N]; no gradient flows into them.
        first_seen: int32 [B, V]: products with first_seen ≤ slot are left out of the slot's sum; N = B · L.
        costs: [V], adds weight · Σ p(product) · cost over the products of the slot's sum; no gradient flows into them.
        gradient_dtype: see `full_softmax_loss`.
    """
    options = {"first_seen": first_seen, "costs": costs}

    @tf.custom_gradient
    def summed(states: tf.Tensor, table: tf.Tensor, others: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        # Without stop_gradient a tape would have the kernel differentiated once more, for nothing.
        given = (tf.stop_gradient(value) for value in (states, table, others, weights))
        total, *gradients = _kernel(*given, options, gradient_dtype)
        return total, lambda upstream: tuple(upstream * gradient for gradient in gradients)

    return summed(states, table, others)


@tf.function(jit_compile=True, autograph=False)
def _kernel(
    states: tf.Tensor,
    table: tf.Tensor,
    others: tf.Tensor,
    weights: tf.Tensor,
    options: dict[str, tf.Tensor | None],
    dtype: tf.DType,
) -> tuple[tf.Tensor, ...]:
    """The sum, and its gradients by states [N, d], table [V, d] and others [N].

    By Cauchy and Schwarz no logit exceeds the longest state times the longest product. Where that is small, as it
    almost always is, no maximum is taken out: XLA takes it number by number, which costs more than the exponentials.
    """
    longest = tf.reduce_max(tf.norm(states, axis=1)) * tf.reduce_max(tf.norm(table, axis=1))
    plain = tf.maximum(longest, tf.reduce_max(others)) <= _PLAIN_EXPONENT

    def chunks(shifted: bool) -> tuple[tf.Tensor, ...]:
        return _sum_of_chunks(states, table, others, weights, options, dtype, shifted)

    return tf.cond(plain, lambda: chunks(False), lambda: chunks(True))


def _sum_of_chunks(
    states: tf.Tensor,
    table: tf.Tensor,
    others: tf.Tensor,
    weights: tf.Tensor,
    options: dict[str, tf.Tensor | None],
    dtype: tf.DType,
    shifted: bool,
) -> tuple[tf.Tensor, ...]:
    """`_kernel` in a loop, whose body is compiled once, over chunks of windows (without `first_seen`: of slots)."""
    first_seen, costs = options["first_seen"], options["costs"]
    windows = states.shape[0] if first_seen is None else first_seen.shape[0]
    length = states.shape[0] // windows
    number = -(-windows // max(1, _CHUNK_SLOTS // length))
    size = -(-windows // number)

    def in_chunks(values: tf.Tensor) -> tf.Tensor:
        filling = (number * size - windows) * (values.shape[0] // windows)
        padded = tf.pad(values, [[0, filling]] + [[0, 0]] * (values.shape.rank - 1))
        return tf.reshape(padded, [number, -1, *values.shape[1:]])

    parts = [in_chunks(values) for values in (states, others, weights)]
    if first_seen is not None:
        parts.append(in_chunks(first_seen))
    by_states, by_others = (tf.TensorArray(tf.float32, number, element_shape=part.shape[1:]) for part in parts[:2])

    def body(index: tf.Tensor, total: tf.Tensor, by_table: tf.Tensor, *arrays: tf.TensorArray) -> tuple:
        chunk = _chunk(table, *(part[index] for part in parts), costs=costs, dtype=dtype, shifted=shifted)
        written = (array.write(index, value) for array, value in zip(arrays, chunk[2:], strict=True))
        return index + 1, total + chunk[0], by_table + chunk[1], *written

    start = (tf.constant(0), tf.constant(0.0), tf.zeros_like(table), by_states, by_others)
    _, total, by_table, *arrays = tf.while_loop(
        lambda index, *_: index < number, body, start, parallel_iterations=1, maximum_iterations=number
    )
    by_states, by_others = (array.concat() for array in arrays)
    return total, by_states[: windows * length], by_table, by_others[: windows * length]


def _chunk(
    table: tf.Tensor,
    states: tf.Tensor,
    others: tf.Tensor,
    weights: tf.Tensor,
    first_seen: tf.Tensor | None = None,
    *,
    costs: tf.Tensor | None,
    dtype: tf.DType,
    shifted: bool,
) -> tuple[tf.Tensor, ...]:
    """Of C slots: the sum, and its gradients by table [V, d], states [C, d] and others [C]."""
    logits = tf.matmul(states, table, transpose_b=True)
    left_out = None if first_seen is None else _left_out(first_seen, states.shape[0])
    shift = tf.zeros_like(others)
    if shifted:
        counted = logits if left_out is None else tf.where(left_out, _NEVER, logits)
        shift = tf.maximum(tf.reduce_max(counted, axis=1), others)
        logits = counted - shift[:, tf.newaxis]
    powers = tf.exp(logits)
    if left_out is not None:
        powers = tf.where(left_out, 0.0, powers)
    other = tf.exp(others - shift)
    of_table = tf.reduce_sum(powers, axis=1)
    partition = of_table + other
    share = weights / partition
    total = tf.reduce_sum(weights * (tf.math.log(partition) + shift))
    if costs is not None:
        mean_cost = tf.math.divide_no_nan(tf.reduce_sum(powers * costs, axis=1), of_table)
        total += tf.reduce_sum(weights * mean_cost)
        # Derivative of the mean cost by a logit: p of the product · (its cost − mean cost).
        scale = tf.math.divide_no_nan(partition, of_table)[:, tf.newaxis]
        powers *= 1.0 + scale * (costs - mean_cost[:, tf.newaxis])
    powers = tf.cast(powers, dtype)
    by_states = tf.cast(tf.matmul(powers, tf.cast(table, dtype)), tf.float32) * share[:, tf.newaxis]
    # [d, C] · [C, V] is faster than its transpose.
    by_table = tf.matmul(tf.cast(states * share[:, tf.newaxis], dtype), powers, transpose_a=True)
    return total, tf.transpose(tf.cast(by_table, tf.float32)), by_states, share * other


def _left_out(first_seen: tf.Tensor, slots: int) -> tf.Tensor:
    """Products that windows have met: int32 [B, V] → bool [C, V] of the C = B · L slots."""
    windows, products = first_seen.shape
    steps = tf.range(slots // windows)[tf.newaxis, :, tf.newaxis]
    return tf.reshape(first_seen[:, tf.newaxis] <= steps, [slots, products])


def _met(first_seen: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Whether the window has met the slot's row: int32 [B, V], int32 [B · L] → bool [B · L]."""
    rows = tf.reshape(rows, [first_seen.shape[0], -1])
    met = tf.gather(first_seen, rows, batch_dims=1) <= tf.range(rows.shape[1])
    return tf.reshape(met, [-1])


def _met_logits(
    states: tf.Tensor, table: tf.Tensor, targets: tf.Tensor, history_rows: tf.Tensor, gains: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Logits [B · L, L] of the products met up to each slot, each at its first slot only, and which of them are the
    slot's target, bool [B · L, L]."""
    windows, length = history_rows.shape
    same = history_rows[:, :, tf.newaxis] == history_rows[:, tf.newaxis, :]
    steps = tf.range(length)
    before = steps[:, tf.newaxis] > steps
    first = ~tf.reduce_any(same & before, axis=2) & (history_rows >= 0)
    counted = first[:, tf.newaxis, :] & (steps[:, tf.newaxis] >= steps)
    vectors = tf.gather(table, tf.maximum(history_rows, 0))
    plain = tf.matmul(tf.reshape(states, [windows, length, -1]), vectors, transpose_b=True)
    logits = tf.where(counted, plain + tf.matmul(gains, tf.cast(same, gains.dtype)), _NEVER)
    of_target = counted & (history_rows[:, tf.newaxis, :] == targets[:, :, tf.newaxis])
    return tf.reshape(logits, [-1, length]), tf.reshape(of_target, [-1, length])


def _normalised(weights: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Weights that sum to 1 over the slots that have a target; all 0 where nothing counts."""
    counted = tf.where(targets >= 0, weights, 0.0)
    return tf.math.divide_no_nan(counted, tf.reduce_sum(counted))
