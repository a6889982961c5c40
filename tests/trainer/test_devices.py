"""Devices and precisions that are not there, or do not go together, are refused before training starts."""

from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
import tf_keras

from trainer import devices
from trainer.config import TrainingConfig
from trainer.devices import make_strategy, precision_policy
from trainer.errors import TrainingError
from trainer.loop import TrainingLoop


def test_one_device_is_what_tensorflow_would_take() -> None:
    assert make_strategy(TrainingConfig()) is tf.distribute.get_strategy()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"devices": ("GPU:7",)}, r"training.devices names GPU:7, and there is only CPU:0"),
        ({"strategy": "mirrored", "devices": ("CPU:0", "CPU:0")}, "names a device twice"),
        ({"devices": ("CPU:0", "CPU:1")}, "takes one device"),
        ({"strategy": "tpu", "precision": "mixed_float16"}, "TPU has no float16"),
        ({"strategy": "tpu"}, "no TPU at this machine; there is CPU:0"),
        ({"embedding_devices": ("CPU:0",)}, "must be none or several"),
        ({"embedding_devices": ("CPU:0", "GPU:7")}, "training.embedding_devices names GPU:7"),
        ({"embedding_devices": ("CPU:0", "CPU:1"), "jit_compile": True}, "XLA compiles for one device"),
        ({"embedding_devices": ("CPU:0", "CPU:1"), "strategy": "mirrored"}, "with strategy = 'one_device' only"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        make_strategy(TrainingConfig(**options))


def test_mirrored_without_a_gpu_does_not_fall_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "present_devices", lambda: ["CPU:0"])
    with pytest.raises(TrainingError, match="there is no GPU; there is CPU:0"):
        make_strategy(TrainingConfig(strategy="mirrored"))


class Plain(tf_keras.Model):
    """Has one layer of the given precision."""

    def __init__(self, dtype: Any) -> None:
        super().__init__()
        self.dense = tf_keras.layers.Dense(1, dtype=dtype)
        self.dense.build((None, 1))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"precision": "mixed_bfloat16"}, "no layer of Plain computes in it"),
        ({"embedding_devices": ("CPU:0", "CPU:1")}, "has no table that is divided"),
        ({"strategy": "mirrored", "devices": ("CPU:0",)}, "needs a model that was made within the strategy"),
        ({"devices": ("CPU:0",)}, "needs a model that was made within the strategy"),
    ],
)
def test_a_model_made_for_something_else_is_refused(tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        TrainingLoop(Plain("float32"), TrainingConfig(**options), tmp_path, tmp_path)


def test_a_model_of_the_precision_asked_for_is_taken(tmp_path: Path) -> None:
    config = TrainingConfig(precision="mixed_bfloat16")
    TrainingLoop(Plain(precision_policy(config)), config, tmp_path, tmp_path)
