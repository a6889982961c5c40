"""The training loop: stops, resumes, warms up, keeps the best epoch."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from trainer.config import TrainingConfig
from trainer.loop import Step, TrainingError, TrainingLoop


class Line(tf_keras.Model):
    """loss = (weight − 3)²; the input can spoil it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = self.add_weight("weight", (), initializer="zeros")

    def compute_loss(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        return tf.square(self.weight - 3.0) + inputs["spoil"]


def steps(number: int, spoil: float = 0.0) -> Iterator[Step]:
    """Two steps an epoch."""
    for step in range(2):
        inputs = {"spoil": np.float32(spoil if (number, step) == (1, 1) else 0.0)}
        yield Step(inputs, windows=4, user_ids=lambda step=step: [f"ann-{step}", "bob"])


def make_loop(output: Path, model: Line | None = None, **config: Any) -> TrainingLoop:
    settings = TrainingConfig(**{"epochs": 3, "learning_rate": 0.1, "warmup_steps": 0, **config})
    return TrainingLoop(model or Line(), settings, output, output / "tensorboard")


def scripted(*values: float) -> Iterator[float]:
    return iter(values)


def test_it_trains_and_writes_the_history(tmp_path: Path) -> None:
    model = Line()
    ndcgs = scripted(0.1, 0.2, 0.3)
    make_loop(tmp_path, model).run(steps, 2, lambda: next(ndcgs))
    assert float(model.weight) == pytest.approx(0.6, abs=0.02)
    history = json.loads((tmp_path / "history.json").read_text())
    assert [(epoch["epoch"], epoch["steps"], epoch["validation_ndcg"]) for epoch in history] == [
        (1, 2, 0.1),
        (2, 4, 0.2),
        (3, 6, 0.3),
    ]
    assert {"loss", "seconds", "sequences_per_second", "learning_rate"} <= set(history[0])


def test_the_best_epoch_is_kept_and_training_stops_after_it(tmp_path: Path) -> None:
    model = Line()
    ndcgs = scripted(0.1, 0.3, 0.2, 0.3, 0.9)
    after: list[float] = []

    def validate() -> float:
        after.append(float(model.weight))
        return next(ndcgs)

    make_loop(tmp_path, model, epochs=9, patience=2).run(steps, 2, validate)
    assert len(after) == 4
    assert float(model.weight) == after[1]


ALL_OPTIONS: dict[str, Any] = {
    "learning_rate_decay": "cosine",
    "warmup_steps": 1,
    "ema_decay": 0.5,
    "gradient_clip_norm": 1.0,
    "weight_decay": 0.1,
}


class HalfLine(Line):
    """A line beside a layer in float16, whose gradient overflows with the first loss scale."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = tf_keras.layers.Dense(1, use_bias=False, kernel_initializer="ones", dtype="mixed_float16")
        self.dense.build((None, 1))

    def compute_loss(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        return (
            super().compute_loss(inputs, training) + tf.cast(tf.square(self.dense(tf.ones([1, 1]))), tf.float32)[0, 0]
        )


@pytest.mark.parametrize(
    ("model_class", "options"),
    [
        (Line, {}),
        (Line, ALL_OPTIONS),
        (Line, {**ALL_OPTIONS, "jit_compile": True}),
        (HalfLine, {**ALL_OPTIONS, "precision": "mixed_float16"}),
    ],
)
def test_a_killed_training_ends_as_an_uninterrupted_one(
    tmp_path: Path, model_class: type[Line], options: dict[str, Any]
) -> None:
    def finish(output: Path, killed_in_epoch: int | None) -> tuple[list[float], list[float]]:
        def failing(number: int) -> Iterator[Step]:
            for step in steps(number):
                if number == killed_in_epoch:
                    raise KeyboardInterrupt
                yield step

        if killed_in_epoch is not None:
            killed = model_class()
            with pytest.raises(KeyboardInterrupt):
                make_loop(output, killed, **options).run(failing, 2, lambda: float(killed.weight))
        model = model_class()
        make_loop(output, model, **options).run(steps, 2, lambda: float(model.weight))
        history = json.loads((output / "history.json").read_text())
        return [weight.numpy().item() for weight in model.weights], [epoch["loss"] for epoch in history]

    assert finish(tmp_path / "killed", 2) == finish(tmp_path / "whole", None)


def test_averages_are_validated_and_kept_while_the_weights_train_on(tmp_path: Path) -> None:
    seen: list[float] = []
    averaged, plain = Line(), Line()

    def validate() -> float:
        seen.append(float(averaged.weight))
        return seen[-1]

    make_loop(tmp_path / "averaged", averaged, ema_decay=0.9).run(steps, 2, validate)
    make_loop(tmp_path / "plain", plain).run(steps, 2, lambda: float(plain.weight))
    # The weight moves by 0.1 a step: Adam with an even gradient. Decays are 1/10, 2/11, 3/12, 4/13, 5/14, 6/15.
    average, expected = 0.0, []
    for step in range(6):
        decay = (1 + step) / (10 + step)
        average = decay * average + (1 - decay) * 0.1 * (step + 1)
        expected.append(average)
    assert seen == pytest.approx(expected[1::2], abs=0.005)
    assert float(averaged.weight) == seen[-1]
    histories = [json.loads((tmp_path / name / "history.json").read_text()) for name in ("averaged", "plain")]
    assert [epoch["loss"] for epoch in histories[0]] == [epoch["loss"] for epoch in histories[1]]


def test_a_falling_learning_rate_ends_at_its_share(tmp_path: Path) -> None:
    make_loop(tmp_path, learning_rate_decay="linear", final_learning_rate_share=0.25).run(steps, 2, lambda: 0.5)
    history = json.loads((tmp_path / "history.json").read_text())
    # Six steps; the rate of step s is 0.1 · (1 − 0.75 · s / 6), and an epoch ends with its second step.
    assert [epoch["learning_rate"] for epoch in history] == pytest.approx([0.0875, 0.0625, 0.0375])


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path: Path) -> None:
    make_loop(tmp_path, epochs=1).run(steps, 2, lambda: 0.5)
    with pytest.raises(TrainingError, match=r"cannot go on from .*another shape or under another configuration"):
        make_loop(tmp_path, ema_decay=0.5).run(steps, 2, lambda: 0.5)


def test_a_validation_that_measures_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="validation NDCG@10 is nan after epoch 1: no epoch can be chosen"):
        make_loop(tmp_path).run(steps, 2, lambda: float("nan"))


def test_an_epoch_without_steps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="nothing to train on"):
        make_loop(tmp_path).run(lambda number: iter(()), 0, lambda: 0.5)


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    make_loop(tmp_path).run(steps, 2, lambda: 0.5)

    def never(number: int) -> Iterator[Step]:
        raise AssertionError(f"epoch {number} was trained again")

    model = Line()
    make_loop(tmp_path, model).run(never, 2, lambda: 0.5)
    assert float(model.weight) != 0


def test_a_gradient_that_is_no_number_names_its_own_step(tmp_path: Path) -> None:
    model = Line()
    # The gradient of |w − 3|^½ has no finite value at 3, where the loss has.
    model.compute_loss = lambda inputs, training: tf.sqrt(tf.abs(model.weight - 3.0)) + 0 * inputs["spoil"]
    model.weight.assign(3.0)
    with pytest.raises(
        TrainingError, match=r"gradient's norm is (nan|inf) at epoch 1, step 1.* shoppers 'ann-0', 'bob'"
    ):
        make_loop(tmp_path, model).run(steps, 2, lambda: 0.5)


@pytest.mark.parametrize("spoil", [np.nan, np.inf])
def test_a_loss_that_is_no_number_stops_and_names_the_place(tmp_path: Path, spoil: float) -> None:
    with pytest.raises(TrainingError, match=r"loss is (nan|inf) at epoch 2, step 2.* shoppers 'ann-1', 'bob'"):
        make_loop(tmp_path).run(lambda number: steps(number, spoil), 2, lambda: 0.5)


def test_norms_and_biases_do_not_decay(tmp_path: Path) -> None:
    model = Line()
    model.weight.assign(3.0)
    make_loop(tmp_path, model, weight_decay=0.5).run(steps, 2, lambda: 0.5)
    # At the minimum only weight decay could move it.
    assert float(model.weight) == 3.0


def test_tensorboard_shows_each_step_once_after_a_resume(tmp_path: Path) -> None:
    make_loop(tmp_path, epochs=1).run(steps, 2, lambda: 0.25)
    make_loop(tmp_path, epochs=2).run(steps, 2, lambda: 0.5)
    seen: list[tuple[str, int]] = []
    for file in sorted((tmp_path / "tensorboard").iterdir()):
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            seen += [(value.tag, event.step) for value in event.summary.value]
    assert [step for tag, step in seen if tag == "loss"] == [1, 2, 3, 4]
    assert [step for tag, step in seen if tag == "gradient_norm"] == [1, 2, 3, 4]
    assert [step for tag, step in seen if tag == "validation_ndcg@10"] == [2, 4]
