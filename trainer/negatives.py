"""Negatives for sampled softmax: how often each is expected, and which ones a row must not count."""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from transform.tables import FIRST, PADDING


def log_expected_counts(
    rows: np.ndarray, target_share: np.ndarray, products: int, from_targets: int, uniform: int
) -> np.ndarray:
    """Log of how often each product is expected among the negatives of a step.

    The negatives are `from_targets` draws from the distribution of targets (in-batch negatives are such draws) and
    `uniform` draws from `products`: count(r) = from_targets · share(r) + uniform / products. The correction
    −log count makes Σ exp(logit) over the negatives an unbiased estimate of the same sum over the catalogue.

    Args:
        rows: int [N] catalogue rows; padding gets 0.
        target_share: float [V], share of each row among all targets, sums to 1.
        products: how many there are to draw from.
        from_targets: number of draws from the targets.
        uniform: number of uniform draws over the products of the catalogue.

    Returns:
        float32 [N].
    """
    counts = from_targets * target_share[rows] + uniform / products
    return np.where(rows >= FIRST, np.log(np.maximum(counts, 1e-30)), 0.0).astype(np.float32)


class NegativeSampler:
    """Draws the negatives that all slots of a step share: from the step's own targets, uniformly, or half and half."""

    def __init__(self, in_batch: int, uniform: int, products: np.ndarray, target_share: np.ndarray | None) -> None:
        """Args:
            in_batch: draws, with replacement, from the targets of the step.
            uniform: draws from `products`.
            products: int32 [P] catalogue rows.
            target_share: float [V], share of each row among all targets, sums to 1: the source of the frequencies.

        Raises:
            ValueError: negatives from the batch without the frequencies that correct for them.
        """
        if in_batch and target_share is None:
            raise ValueError(
                f"in-batch negatives need the frequencies of the targets, received in_batch = {in_batch} and no "
                "target_share. Give TrainingWindows.target_share, or sample uniformly."
            )
        self.in_batch = in_batch
        self.uniform = uniform
        self.products = products
        self.target_share = np.zeros(products.max() + 1) if target_share is None else target_share

    def draw(self, rng: np.random.Generator, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Catalogue rows int32 [M] and the log of their expected counts float32 [M].

        Args:
            rng: of the step.
            targets: int32, any shape, catalogue rows of the step; reserved rows = none. A step without targets draws
                padding in their place, which no loss counts.
        """
        there = targets[targets >= FIRST]
        drawn = rng.choice(there, self.in_batch) if len(there) else np.full(self.in_batch, PADDING)
        uniform = uniform_negatives(rng, self.products, self.uniform)
        rows = np.concatenate([drawn, uniform]).astype(np.int32)
        counts = log_expected_counts(rows, self.target_share, len(self.products), self.in_batch, self.uniform)
        return rows, counts


def uniform_negatives(rng: np.random.Generator, products: np.ndarray, number: int) -> np.ndarray:
    """Drawn from `products`, int32 [P] catalogue rows, with replacement: int32 [number]."""
    return products[rng.integers(0, len(products), number)]


def negative_mask(inputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Which negatives count for which positive: bool [P, P + U].

    Not counted: padding; a negative that is the row's own positive (an accidental hit); a product that the same
    shopper comes to later in the window, since it is another positive of the row.

    Args:
        inputs: history_rows int32 [B, L]; positive_slots int32 [P], flat indices into [B·L]; positive_rows int32 [P];
            negative_rows int32 [U].
    """
    history, own = inputs["history_rows"], inputs["positive_rows"]
    length = history.shape[1]
    rows = tf.concat([own, inputs["negative_rows"]], axis=0)
    slots = tf.range(length, dtype=tf.int32)[tf.newaxis, :, tf.newaxis]
    met = history[:, :, tf.newaxis] == rows
    last_met = tf.reduce_max(tf.where(met, slots, -1), axis=1)
    window, slot = inputs["positive_slots"] // length, inputs["positive_slots"] % length
    later = tf.gather(last_met, window) > slot[:, tf.newaxis]
    return (rows > PADDING) & (rows != own[:, tf.newaxis]) & ~later
