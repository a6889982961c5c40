"""One step: clipping, loss scaling, compilation by XLA."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from trainer.config import TrainingConfig
from trainer.train_step import TrainStep


class Plane(tf_keras.Model):
    """loss = 3 x + 4 y, whose gradient is (3, 4), of norm 5."""

    def __init__(self) -> None:
        super().__init__()
        self.x = self.add_weight("x", (), initializer="zeros")
        self.y = self.add_weight("y", (), initializer="zeros")

    def compute_loss(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        return 3.0 * self.x + 4.0 * self.y


@pytest.mark.parametrize(("limit", "first_moments"), [(0.0, [0.3, 0.4]), (2.0, [0.12, 0.16]), (7.0, [0.3, 0.4])])
def test_long_gradients_are_shortened_as_one(limit: float, first_moments: list[float]) -> None:
    model = Plane()
    step = TrainStep(model, TrainingConfig(gradient_clip_norm=limit), total_steps=1)
    _, norm = step({})
    assert float(norm) == 5.0
    # Adam's first moment after one step is a tenth of the gradient that it was given.
    assert [float(moment) for moment in step.optimizer._momentums] == pytest.approx(first_moments)


class Half(tf_keras.Model):
    """loss = slope · weight in float16, whose gradient overflows where the loss scale times the slope passes 65,504."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = self.add_weight("weight", (), initializer="zeros")

    def compute_loss(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        return tf.cast(tf.cast(self.weight, tf.float16) * tf.cast(inputs["slope"], tf.float16), tf.float32)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_step_that_overflows_is_passed_over_with_a_smaller_scale(jit_compile: bool) -> None:
    model = Half()
    config = TrainingConfig(precision="mixed_float16", learning_rate=0.1, warmup_steps=0, jit_compile=jit_compile)
    step = TrainStep(model, config, total_steps=3)
    norms, weights = [], []
    for _ in range(3):
        assert step.forgives_overflow()
        norms.append(float(step({"slope": tf.constant(4.0)})[1]))
        weights.append(float(model.weight))
    # Scales 32,768, 16,384 and 8,192: four times the first two is more than a float16 holds.
    assert norms == [np.inf, np.inf, 4.0]
    assert weights[:2] == [0.0, 0.0]
    assert weights[2] < 0


def test_an_overflow_that_no_scale_cures_is_not_forgiven() -> None:
    step = TrainStep(Half(), TrainingConfig(precision="mixed_float16"), total_steps=20)
    for _ in range(15):
        assert step.forgives_overflow()
        step({"slope": tf.constant(np.inf)})
    assert not step.forgives_overflow()
    assert not TrainStep(Half(), TrainingConfig(), total_steps=1).forgives_overflow()


def test_the_compiled_step_does_what_the_plain_one_does() -> None:
    def trained(jit_compile: bool) -> list[float]:
        config = TrainingConfig(
            jit_compile=jit_compile,
            ema_decay=0.9,
            gradient_clip_norm=2.0,
            weight_decay=0.1,
            learning_rate_decay="cosine",
        )
        model = Plane()
        step = TrainStep(model, config, total_steps=9)
        for _ in range(3):
            step({})
        return [float(variable) for variable in (*model.weights, *step.average.averages)]

    assert trained(True) == pytest.approx(trained(False), rel=1e-6)
