"""The ranker's loss by configuration: over the whole catalogue, or over negatives."""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from trainer.config import LossConfig
from trainer.full_softmax import full_softmax_loss, full_softmax_loss_with_repeats
from trainer.losses import bpr_loss, gbce_beta, gbce_loss, popularity_costs, sampled_softmax_loss
from trainer.negatives import NegativeSampler


@dataclass(frozen=True)
class CatalogueLoss:
    """Softmax over all products that training may learn from."""

    temperature: float
    costs: np.ndarray | None  # [P], of each of them
    gradient_dtype: tf.DType

    def __call__(
        self,
        states: tf.Tensor,
        table: tf.Tensor,
        targets: tf.Tensor,
        weights: tf.Tensor,
        first_seen: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """See `full_softmax_loss`: [N, d], products [P, d], int32 [N] places among them, [N]."""
        return full_softmax_loss(
            *(states, table, targets, weights),
            temperature=self.temperature,
            first_seen=first_seen,
            costs=self._product_costs(),
            gradient_dtype=self.gradient_dtype,
        )

    def with_repeats(
        self,
        states: tf.Tensor,
        table: tf.Tensor,
        targets: tf.Tensor,
        weights: tf.Tensor,
        history_rows: tf.Tensor,
        gains: tf.Tensor,
    ) -> tf.Tensor:
        """See `full_softmax_loss_with_repeats`; rows are places among the products."""
        return full_softmax_loss_with_repeats(
            *(states, table, targets, weights, history_rows, gains),
            temperature=self.temperature,
            costs=self._product_costs(),
            gradient_dtype=self.gradient_dtype,
        )

    def _product_costs(self) -> tf.Tensor | None:
        return None if self.costs is None else tf.constant(self.costs)


@dataclass(frozen=True)
class NegativesLoss:
    """A loss of each target against negatives that all slots share."""

    config: LossConfig
    beta: float  # of gBCE
    costs: np.ndarray | None  # [V], of all rows

    def __call__(
        self,
        positive: tf.Tensor,
        negative: tf.Tensor,
        targets: tf.Tensor,
        weights: tf.Tensor,
        negative_rows: tf.Tensor,
        negative_log_counts: tf.Tensor,
    ) -> tf.Tensor:
        """Weighted mean, in nats.

        Args:
            positive: [...] scores of the targets.
            negative: [..., M] scores.
            targets: int32 [...] catalogue rows; a reserved row = no target, not counted.
            weights: float32 [...]; 0 = not counted.
            negative_rows: int32 [M] catalogue rows.
            negative_log_counts: [M], which the sampled softmax corrects by; the other losses do not read them.
        """
        positive, negative = positive / self.config.temperature, negative / self.config.temperature
        if self.config.name == "sampled_softmax":
            return sampled_softmax_loss(
                positive, negative, negative_log_counts, targets, negative_rows, weights, self.costs
            )
        if self.config.name == "bpr":
            return bpr_loss(positive, negative, targets, negative_rows, weights)
        return gbce_loss(positive, negative, targets, negative_rows, weights, self.beta)


def make_loss(
    config: LossConfig,
    products: np.ndarray,
    target_share: np.ndarray | None = None,
    gradient_dtype: tf.DType = tf.float32,
) -> CatalogueLoss | NegativesLoss:
    """The loss that a configuration names.

    Args:
        config: of the loss.
        products: int32 [P] catalogue rows that are rivals of a target.
        target_share: float [V], share of each row among all targets, sums to 1.
        gradient_dtype: see `full_softmax_loss`.

    Raises:
        ValueError: the loss needs the frequencies of the targets, or a softmax, and has none.
    """
    costs = _costs(config, target_share)
    if config.name == "softmax":
        return CatalogueLoss(config.temperature, None if costs is None else costs[products], gradient_dtype)
    calibration = config.gbce_t if config.name == "gbce" else 0.0
    return NegativesLoss(config, gbce_beta(config.negatives, len(products), calibration), costs)


def make_sampler(
    config: LossConfig, products: np.ndarray, target_share: np.ndarray | None = None
) -> NegativeSampler | None:
    """What draws the negatives of a configuration's loss from `products`, int32 [P] catalogue rows; None where it needs
    none.

    Raises:
        ValueError: the sampling needs the frequencies of the targets and has none.
    """
    if config.name == "softmax":
        return None
    in_batch = {"uniform": 0, "in_batch": config.negatives, "mixed": config.negatives // 2}[config.negative_sampling]
    return NegativeSampler(in_batch, config.negatives - in_batch, products, target_share)


def _costs(config: LossConfig, target_share: np.ndarray | None) -> np.ndarray | None:
    if not config.popularity_penalty:
        return None
    if config.name not in ("softmax", "sampled_softmax"):
        raise ValueError(
            f"loss.popularity_penalty needs a softmax, whose distribution it holds back, received {config.name!r}. "
            "Set loss.name to softmax or sampled_softmax, or loss.popularity_penalty to 0."
        )
    if target_share is None:
        raise ValueError(
            "loss.popularity_penalty needs the frequencies of the targets, received no target_share. Give "
            "TrainingWindows.target_share, or set loss.popularity_penalty to 0."
        )
    return popularity_costs(target_share, config.popularity_penalty)
