"""Trains on two logical processors; run as a program, since TensorFlow divides devices once per process.

Prints a JSON object: name of the training → its outcome, or the sentence with which it was refused.
"""

import json
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from trainer.config import TrainingConfig
from trainer.devices import check_model, make_strategy, precision_policy
from trainer.errors import TrainingError
from trainer.sharded_embedding import ShardedEmbedding, gather, joined
from trainer.train_step import TrainStep

ROWS, DIM, BATCH, STEPS = 11, 4, 7, 3


class Regression(tf_keras.Model):
    """Mean squared error, weighted, of a linear layer over embedded rows."""

    def __init__(self, policy: tf_keras.mixed_precision.Policy, embedding_devices: tuple[str, ...]) -> None:
        super().__init__()
        start = np.random.default_rng(3).normal(size=(ROWS, DIM)).astype(np.float32)
        if embedding_devices:
            self.table = ShardedEmbedding(ROWS, DIM, embedding_devices, tf_keras.initializers.Zeros)
        else:
            self.table = self.add_weight("table", (ROWS, DIM))
        self.table.assign(start)
        kernel = tf_keras.initializers.Constant(0.1 * np.arange(1.0, DIM + 1.0, dtype=np.float32)[:, np.newaxis])
        self.output_layer = tf_keras.layers.Dense(1, kernel_initializer=kernel, dtype=policy)
        self.output_layer.build((None, DIM))

    def compute_loss(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """Scalar; `offset` [1] is shared by the whole batch."""
        predicted = tf.cast(self.output_layer(gather(self.table, inputs["rows"])), tf.float32)[:, 0]
        errors = tf.square(predicted + inputs["offset"] - inputs["values"]) * inputs["weights"]
        return tf.reduce_sum(errors) / tf.maximum(tf.reduce_sum(inputs["weights"]), 1.0)

    def loss_weight(self, inputs: dict[str, tf.Tensor]) -> tf.Tensor:
        """What the batch counts."""
        return tf.reduce_sum(inputs["weights"])


def batches() -> list[dict[str, np.ndarray]]:
    """Batches of seven rows, which two devices cannot halve; the halves weigh unequally, one not at all."""
    rng = np.random.default_rng(5)
    made = []
    for number in range(STEPS):
        weights = rng.integers(1, 4, BATCH).astype(np.float32)
        weights[4:] = 0 if number == 1 else weights[4:]
        made.append(
            {
                "rows": rng.integers(0, ROWS, BATCH).astype(np.int32),
                "values": 0.3 * rng.normal(size=BATCH).astype(np.float32),
                "weights": weights,
                "offset": np.array([0.1], np.float32),
                "seed": np.array([1, number], np.int32),
            }
        )
    return made


def train(**options: Any) -> dict[str, Any]:
    """Weights and averages after some steps with the losses and norms of the steps; whether copies agree."""
    settings = {"learning_rate": 0.05, "warmup_steps": 0, "ema_decay": 0.5, "weight_decay": 0.1, "batch_size": 8}
    config = TrainingConfig(**{**settings, **options})
    strategy = make_strategy(config)
    with strategy.scope():
        model = Regression(precision_policy(config), config.embedding_devices)
    check_model(model, config)
    step = TrainStep(model, config, STEPS)
    results = [step(step.place(batch, frozenset({"offset", "seed"}))) for batch in batches()]
    own, averages = copies_of(model.weights, strategy), copies_of(step.average.averages, strategy)
    with step.average.in_place():
        validated = copies_of(model.weights, strategy)
    swapped = np.abs(validated - averages).sum() + np.abs(copies_of(model.weights, strategy) - own).sum()
    scalars = [float(value) for result in results for value in result]
    return {
        "values": [*own[0].tolist(), *averages[0].tolist(), *scalars],
        "apart": float(np.ptp(own, axis=0).sum() + np.ptp(averages, axis=0).sum()),
        "swapped_wrongly": float(swapped),
    }


def copies_of(variables: list[tf.Variable], strategy: tf.distribute.Strategy) -> np.ndarray:
    """Every device's copy of all variables end to end: [devices, numbers]."""
    copies = [strategy.experimental_local_results(variable) for variable in variables]
    return np.stack([np.concatenate([copy.numpy().ravel() for copy in device]) for device in zip(*copies, strict=True)])


def sharded() -> dict[str, Any]:
    """Values and gradient of a lookup in a divided table and in a whole one, and a training with each."""
    start = np.random.default_rng(4).normal(size=(ROWS, DIM)).astype(np.float32)
    whole = tf.Variable(start)
    divided = ShardedEmbedding(ROWS, DIM, ("CPU:0", "CPU:1"), tf_keras.initializers.Zeros)
    divided.assign(start)
    rows = tf.constant([[0, 3, 3], [10, 9, 0]])
    upstream = np.arange(rows.shape.num_elements() * DIM, dtype=np.float32).reshape(*rows.shape, DIM)
    with tf.GradientTape() as tape:
        found, expected = divided.gather(rows), tf.gather(whole, rows)
        outcome = tf.reduce_sum(found * upstream) + tf.reduce_sum(expected * upstream)
    *of_shards, of_whole = tape.gradient(outcome, [*divided.shards, whole])
    gradient = joined([tf.convert_to_tensor(part).numpy() for part in of_shards])
    trained = train(embedding_devices=("CPU:0", "CPU:1"), gradient_clip_norm=0.5)["values"]
    return {
        "devices": [shard.device.rpartition("device:")[2] for shard in divided.shards],
        "sizes": [len(shard.numpy()) for shard in divided.shards],
        "values": [found.numpy().tolist(), expected.numpy().tolist()],
        "gradients": [gradient.tolist(), tf.convert_to_tensor(of_whole).numpy().tolist()],
        "read back": bool((divided.numpy() == start).all()),
        "losses": [trained[-2 * STEPS :], train(gradient_clip_norm=0.5)["values"][-2 * STEPS :]],
    }


def refusal(**options: Any) -> str:
    """The sentence with which a configuration is refused."""
    try:
        make_strategy(TrainingConfig(**options))
    except TrainingError as error:
        return str(error)
    return "accepted"


def main() -> None:
    processor = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)
    tf.config.experimental.enable_op_determinism()
    both = {"strategy": "mirrored", "devices": ("CPU:0", "CPU:1")}
    clipped = {"gradient_clip_norm": 0.5}
    results = {
        "one": train(),
        "one, compiled": train(jit_compile=True),
        "one, second device": train(devices=("CPU:1",)),
        "two": train(**both),
        "two, compiled": train(**both, jit_compile=True),
        "one, clipped": train(**clipped),
        "two, clipped": train(**both, **clipped),
        "one, bfloat16": train(precision="mixed_bfloat16"),
        "two, bfloat16": train(**both, precision="mixed_bfloat16"),
        "one, float16": train(precision="mixed_float16"),
        "one, float16, compiled": train(precision="mixed_float16", jit_compile=True),
        "two, float16": train(**both, precision="mixed_float16"),
        "sharded": sharded(),
        "third device": refusal(strategy="mirrored", devices=("CPU:0", "CPU:2")),
        "odd batch": refusal(**both, batch_size=9),
    }
    print(json.dumps(results))


if __name__ == "__main__":
    main()
