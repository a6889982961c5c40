"""Trains the retrieval towers on windows of the transform's sequences."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import repeat
from pathlib import Path

import numpy as np
import tensorflow as tf

from trainer.config import EvaluationConfig, RetrievalConfig
from trainer.data import Catalogue
from trainer.hard_negatives import HardNegatives
from trainer.loop import Batch, Step, TrainingError
from trainer.metrics import validation_ndcg
from trainer.negatives import log_expected_counts, uniform_negatives
from trainer.queries import Queries
from trainer.retrieval import RetrievalModel
from trainer.stage_training import Fit, load_training_data, make_model
from trainer.warm_start import Previous
from trainer.windows import NONE, TrainingWindows, WindowBatch
from transform.tables import FIRST, PADDING


def train_retrieval(
    transform_dir: Path,
    output: Path,
    config: RetrievalConfig,
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
    check_hard_negatives(config, data.catalogue.size - FIRST)
    model = make_model(lambda: RetrievalModel(data.catalogue, config), config.training)
    hard_negatives = HardNegatives(model, data.sequences, config) if config.hard_negatives else None
    steps = RetrievalSteps(data.windows, data.catalogue, config, hard_negatives)
    validate = retrieval_validation(model, data.queries)
    fit = Fit("retrieval", model, config, data, steps.epoch, validate, model.candidate_embeddings)
    fit.run(output, log_dir, previous)


def check_config(config: RetrievalConfig) -> None:
    """Raises TrainingError where the parts of a configuration do not fit one another."""
    if config.dim % config.heads:
        raise TrainingError(
            f"retrieval.dim must be divisible by retrieval.heads, received dim = {config.dim}, heads = {config.heads}."
        )


def check_hard_negatives(config: RetrievalConfig, products: int) -> None:
    """Raises TrainingError where hard negatives are asked for from ranks that do not exist or are too few."""
    skip, stop = config.hard_negative_ranks
    if config.hard_negatives and not (skip + config.hard_negatives <= stop <= products):
        raise TrainingError(
            "retrieval.hard_negative_ranks must hold at least retrieval.hard_negatives ranks and end within the "
            f"catalogue, received {list(config.hard_negative_ranks)}, hard_negatives = {config.hard_negatives} and "
            f"{products} products."
        )


class RetrievalSteps:
    """What the retrieval model's `compute_loss` reads, step by step."""

    def __init__(
        self,
        windows: TrainingWindows,
        catalogue: Catalogue,
        config: RetrievalConfig,
        hard_negatives: HardNegatives | None = None,
    ) -> None:
        """Args:
        windows: of the training span.
        catalogue: all products.
        config: positives and negatives of a step.
        hard_negatives: mines them, where `config` asks for some.
        """
        self.windows = windows
        self.config = config
        self.hard_negatives = hard_negatives
        self.products = catalogue.trained_rows[FIRST:]
        self.target_share = windows.target_share(catalogue.size)

    def epoch(self, number: int) -> Iterator[Step]:
        """Steps of an epoch, from 0: the same in every process, hard negatives as long as the weights are.

        They are mined in the call itself, not when the first step is asked for: the weights are then those between
        two epochs, whoever reads the steps.
        """
        miner = self.hard_negatives
        if miner is None:
            return self._steps(number, None)
        if number + 1 < self.config.hard_negatives_from:
            # As for all epochs, so that the step is compiled once.
            none = np.full((self.config.positives, self.config.hard_negatives), PADDING, np.int32)
            return self._steps(number, repeat(none))
        rng = np.random.default_rng([self.config.training.seed, number, 2])
        return self._steps(number, iter(miner.mine(self._batches(number), self.windows.steps, rng)))

    def _steps(self, number: int, hard: Iterator[np.ndarray] | None) -> Iterator[Step]:
        """Of an epoch, with the next of `hard`, int32 [P, H], in each."""
        for batch, inputs in self._batches(number):
            if hard is not None:
                inputs["hard_negative_rows"] = next(hard)
            yield Step(inputs, batch.windows, partial(self.windows.user_ids, batch))

    def _batches(self, number: int) -> Iterator[tuple[WindowBatch, Batch]]:
        """Windows of an epoch and what the model reads of them, hard negatives aside."""
        rng = np.random.default_rng([self.config.training.seed, number, 1])
        for batch in self.windows.epoch(number):
            yield batch, self._inputs(batch, rng)

    def _inputs(self, batch: WindowBatch, rng: np.random.Generator) -> Batch:
        """A drawn subset of the slots that have a target, always `config.positives` long, and negatives for them."""
        sequences, size = self.windows.sequences, self.config.positives
        with_target = np.flatnonzero(batch.targets.ravel() != NONE)
        chosen = rng.permutation(with_target)[:size]
        slots = np.zeros(size, np.int32)
        slots[: len(chosen)] = chosen
        targets = np.full(size, NONE, np.int64)
        targets[: len(chosen)] = batch.targets.ravel()[chosen]

        def of_targets(values: np.ndarray) -> np.ndarray:
            return np.where(targets != NONE, values[targets], 0).astype(values.dtype)

        positives = of_targets(sequences.rows)
        uniform = self.config.uniform_negatives
        negatives = uniform_negatives(rng, self.products, uniform)
        rows = np.concatenate([positives, negatives])
        # A positive meets the others of its batch as negatives, not itself.
        others = max(len(chosen) - 1, 0)
        return {
            **self.windows.history(batch),
            "positive_slots": slots,
            "positive_rows": positives,
            "positive_weights": self.windows.weights(targets),
            "negative_rows": negatives,
            "negative_log_counts": log_expected_counts(rows, self.target_share, len(self.products), others, uniform),
            "context_timestamp": of_targets(sequences.timestamps),
            "context_device": of_targets(sequences.devices),
            "context_region": of_targets(sequences.regions),
        }


def retrieval_validation(model: RetrievalModel, queries: Queries) -> Callable[[], float]:
    """Measures NDCG@10 of the model as it stands, over the whole catalogue."""

    @tf.function
    def scores(batch: dict[str, tf.Tensor], table: tf.Tensor, candidates: tf.Tensor) -> tf.Tensor:
        return tf.matmul(model.query_embeddings(batch, table), candidates, transpose_b=True)

    def validate() -> float:
        table = model.item_table()
        candidates = model.project_items(table)
        return validation_ndcg(lambda batch: scores(batch, table, candidates).numpy(), queries)

    return validate
