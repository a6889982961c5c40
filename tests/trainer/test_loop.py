"""The training loop: stops, resumes, warms up, keeps the best epoch."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from trainer.config import TrainingConfig
from trainer.loop import Step, TrainingError, TrainingLoop, WarmUp


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


def make_loop(output: Path, model: Line | None = None, **config: float) -> TrainingLoop:
    settings = TrainingConfig(**{"epochs": 3, "learning_rate": 0.1, "warmup_steps": 0, **config})
    return TrainingLoop(model or Line(), settings, output, output / "tensorboard")


def scripted(*values: float) -> Iterator[float]:
    return iter(values)


def test_learning_rate_grows_linearly_then_stays() -> None:
    rates = [float(WarmUp(0.5, 4)(step)) for step in range(6)]
    assert rates == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5, 0.5])


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


def test_a_killed_training_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    def finish(output: Path, killed_in_epoch: int | None) -> tuple[float, list[float]]:
        def failing(number: int) -> Iterator[Step]:
            for step in steps(number):
                if number == killed_in_epoch:
                    raise KeyboardInterrupt
                yield step

        if killed_in_epoch is not None:
            with pytest.raises(KeyboardInterrupt):
                make_loop(output).run(failing, 2, lambda: 0.5)
        model = Line()
        make_loop(output, model).run(steps, 2, lambda: 0.5)
        history = json.loads((output / "history.json").read_text())
        return float(model.weight), [epoch["loss"] for epoch in history]

    assert finish(tmp_path / "killed", 2) == finish(tmp_path / "whole", None)


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    make_loop(tmp_path).run(steps, 2, lambda: 0.5)

    def never(number: int) -> Iterator[Step]:
        raise AssertionError(f"epoch {number} was trained again")

    model = Line()
    make_loop(tmp_path, model).run(never, 2, lambda: 0.5)
    assert float(model.weight) != 0


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
    assert [step for tag, step in seen if tag == "validation_ndcg@10"] == [2, 4]
