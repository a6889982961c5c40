"""Trains the ranker on windows of the transform's sequences."""

import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import tensorflow as tf

from trainer.config import EvaluationConfig, RankerConfig
from trainer.data import Catalogue
from trainer.loop import Batch, Step, TrainingError
from trainer.metrics import validation_ndcg
from trainer.objectives import make_objective
from trainer.queries import Queries
from trainer.ranker import Ranker
from trainer.ranker_loss import make_sampler
from trainer.stage_training import Fit, load_training_data, make_model
from trainer.warm_start import Previous
from trainer.windows import TrainingWindows
from transform.tables import FIRST

_LOG = logging.getLogger(__name__)
# What every device reads whole.
_SHARED = frozenset({"negative_rows", "negative_log_counts"})


def train_ranker(
    transform_dir: Path,
    output: Path,
    config: RankerConfig,
    log_dir: Path,
    evaluation: EvaluationConfig | None = None,
    previous: Previous | None = None,
) -> None:
    """Train on the training span, keep the epoch that is best on the validation span.

    Args:
        transform_dir: what `tandem transform` wrote.
        output: gets model.json, weights, history.json, checkpoints/ and, after a warm start,
            drift.json; an interrupted training goes on from there.
        config: of model and loop.
        log_dir: gets TensorBoard's event files.
        evaluation: the protocol by which the epoch is chosen; None = the shipped defaults.
        previous: a run whose weights the training starts from.

    Raises:
        TrainingError: the configuration does not fit, there is nothing to train or to validate on, or the loss is no
            longer a number.
    """
    check_config(config)
    data = load_training_data(transform_dir, config, evaluation)
    model = make_model(lambda: Ranker(data.catalogue, config), config.training)
    steps = RankerSteps(data.windows, data.catalogue, config)
    validate = ranker_validation(model, data.queries)
    Fit("ranker", model, config, data, steps.epoch, validate, model.item_vectors).run(output, log_dir, previous)


def check_config(config: RankerConfig) -> None:
    """Raises TrainingError where the parts of a configuration do not fit one another."""
    if config.dim % config.heads:
        raise TrainingError(
            f"ranker.dim must be divisible by ranker.heads, received dim = {config.dim}, heads = {config.heads}."
        )
    if config.objective == "masked_item" and config.repeats == "learned":
        raise TrainingError(
            'ranker.objective = "masked_item" cannot learn what a product gains by being met before (a masked product '
            'is met from both sides): set ranker.repeats = "excluded", or ranker.objective = "next_item".'
        )
    if not config.positions:
        raise TrainingError(
            'ranker.positions must name "relative", "absolute" or both, received none: without it the order of a '
            "history would not count."
        )


class RankerSteps:
    """What the ranker's `compute_loss` reads, step by step."""

    def __init__(self, windows: TrainingWindows, catalogue: Catalogue, config: RankerConfig) -> None:
        self.windows = windows
        self.config = config
        self.objective = make_objective(config)
        loss = config.loss_of(catalogue.size)
        if loss != config.loss:
            _LOG.info("%d products: the softmax is sampled, %d negatives a step", catalogue.size, loss.negatives)
        self.sampler = make_sampler(loss, catalogue.trained_rows[FIRST:], windows.target_share(catalogue.size))

    def epoch(self, number: int) -> Iterator[Step]:
        """Steps of an epoch, the same in every process."""
        rng = np.random.default_rng([self.config.training.seed, number, 1])
        for batch in self.windows.epoch(number):
            inputs: Batch = self.objective.training(self.windows, batch, rng)
            if self.sampler is not None:
                drawn = self.sampler.draw(rng, inputs["targets"])
                inputs["negative_rows"], inputs["negative_log_counts"] = drawn
            yield Step(inputs, batch.windows, partial(self.windows.user_ids, batch), _SHARED)


def ranker_validation(model: Ranker, queries: Queries) -> Callable[[], float]:
    """Measures NDCG@10 of the model as it stands, over the whole catalogue."""

    @tf.function
    def scores(batch: dict[str, tf.Tensor], table: tf.Tensor) -> tf.Tensor:
        return model.score_catalogue(model.encode(batch, table), table)

    def validate() -> float:
        table = model.item_table()
        return validation_ndcg(lambda batch: scores(batch, table).numpy(), queries)

    return validate
