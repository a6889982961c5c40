"""Trains the ranker with each option of devices and precision on two logical processors; run as a program, since
TensorFlow divides devices once per process.

Takes a scratch folder; prints a JSON object: name of the option → scores of the checkerboard's products, [2][products].
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import tensorflow as tf

from tests.trainer.test_training import RANKER, ranker_scores
from tests.trainer.worlds import checkerboard_catalogue, checkerboard_sequences, write_transform
from trainer.config import RankerConfig
from trainer.ranker import load_ranker
from trainer.ranker_training import train_ranker


def trained_with(config: RankerConfig, **options: Any) -> RankerConfig:
    return replace(config, training=replace(config.training, **options))


TWO = ("CPU:0", "CPU:1")
# Neither dropout nor times, some of which are hidden at random: each device, and XLA, draws its own numbers.
CATALOGUE = checkerboard_catalogue(has_timestamps=False)
SHORT = replace(RANKER, dropout=0.0, id_dropout=0.0, training=replace(RANKER.training, epochs=1, learning_rate=0.005))
RUNS = {
    "one device": SHORT,
    "two devices": trained_with(SHORT, strategy="mirrored", devices=TWO),
    "compiled": trained_with(SHORT, jit_compile=True),
    "bfloat16": trained_with(SHORT, precision="mixed_bfloat16"),
    # Its parts start from other random weights than the whole.
    "divided table": trained_with(RANKER, embedding_devices=TWO),
}


def main() -> None:
    scratch = Path(sys.argv[1])
    processor = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)
    write_transform(scratch / "world", CATALOGUE, checkerboard_sequences())
    outcomes = {}
    for name, config in RUNS.items():
        train_ranker(scratch / "world", scratch / name, config, scratch / name / "logs")
        outcomes[name] = ranker_scores(load_ranker(scratch / name, CATALOGUE)).tolist()
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main()
