"""Softmax losses over the catalogue, full and sampled."""

import tensorflow as tf

from transform.tables import PADDING

# Logit of what must not be counted.
_MASKED = -1e9


def softmax_loss(states: tf.Tensor, items: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Mean cross-entropy of the targets under softmax(states · itemsᵀ), in nats.

    Args:
        states: [N, dim].
        items: [V, dim].
        targets: int32 [N], indices into `items`; negative = no target, not counted.
    """
    logits = tf.matmul(states, items, transpose_b=True)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(targets, 0), logits)
    return _mean(losses, targets >= 0)


def sampled_softmax_loss(
    states: tf.Tensor,
    target_items: tf.Tensor,
    negative_items: tf.Tensor,
    negative_log_counts: tf.Tensor,
    targets: tf.Tensor,
    negative_rows: tf.Tensor,
) -> tf.Tensor:
    """Mean cross-entropy, in nats, with the partition function estimated from negatives that all rows share.

    loss = −s⁺ + log(exp s⁺ + Σ over negatives other than the target of exp(s − log expected count)), which estimates
    the full softmax without bias in the partition function (importance sampling, Bengio and Senécal 2008).

    Args:
        states: [N, dim].
        target_items: [N, dim].
        negative_items: [M, dim].
        negative_log_counts: [M], see `negatives.log_expected_counts`.
        targets: int32 [N] catalogue rows; 0 = no target, not counted.
        negative_rows: int32 [M] catalogue rows.
    """
    positive = tf.reduce_sum(states * target_items, axis=-1, keepdims=True)
    negative = tf.matmul(states, negative_items, transpose_b=True) - negative_log_counts
    accidental = targets[:, tf.newaxis] == negative_rows
    logits = tf.concat([positive, tf.where(accidental, _MASKED, negative)], axis=-1)
    return _mean(tf.reduce_logsumexp(logits, axis=-1) - positive[:, 0], targets > PADDING)


def _mean(losses: tf.Tensor, counted: tf.Tensor) -> tf.Tensor:
    weights = tf.cast(counted, tf.float32)
    return tf.reduce_sum(losses * weights) / tf.maximum(tf.reduce_sum(weights), 1.0)
