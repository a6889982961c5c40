"""Softmax losses over the catalogue, full and sampled."""

import tensorflow as tf

from transform.tables import FIRST

# Logit of what must not be counted.
_MASKED = -1e9


def softmax_loss(logits: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Mean cross-entropy of the targets under softmax(logits), in nats.

    Args:
        logits: [..., N].
        targets: int32 [...] in [0, N); negative = no target, not counted.
    """
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(targets, 0), logits)
    return _mean(losses, targets >= 0)


def sampled_softmax_loss(
    positive: tf.Tensor,
    negative: tf.Tensor,
    negative_log_counts: tf.Tensor,
    targets: tf.Tensor,
    negative_rows: tf.Tensor,
) -> tf.Tensor:
    """Mean cross-entropy, in nats, with the partition function estimated from negatives that all slots share.

    loss = −s⁺ + log(exp s⁺ + Σ over negatives other than the target of exp(s − log expected count)), which estimates
    the full softmax without bias in the partition function (importance sampling, Bengio and Senécal 2008).

    Args:
        positive: [...] logits of the targets.
        negative: [..., M] logits.
        negative_log_counts: [M], see `negatives.log_expected_counts`.
        targets: int32 [...] catalogue rows; a reserved row = no target, not counted.
        negative_rows: int32 [M] catalogue rows.
    """
    accidental = targets[..., tf.newaxis] == negative_rows
    corrected = tf.where(accidental, _MASKED, negative - negative_log_counts)
    logits = tf.concat([positive[..., tf.newaxis], corrected], axis=-1)
    return _mean(tf.reduce_logsumexp(logits, axis=-1) - positive, targets >= FIRST)


def _mean(losses: tf.Tensor, counted: tf.Tensor) -> tf.Tensor:
    weights = tf.cast(counted, tf.float32)
    return tf.reduce_sum(losses * weights) / tf.maximum(tf.reduce_sum(weights), 1.0)
