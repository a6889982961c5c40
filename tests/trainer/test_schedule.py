"""The learning rate against numbers worked out by hand."""

import pytest

from trainer.schedule import WarmUpDecay


def rates(schedule: WarmUpDecay, steps: int) -> list[float]:
    return [float(schedule(step)) for step in range(steps)]


def test_it_grows_linearly_then_stays() -> None:
    schedule = WarmUpDecay(0.5, 4, "constant", total_steps=6, final_share=0.0)
    assert rates(schedule, 7) == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5, 0.5, 0.5])


def test_it_falls_linearly_to_its_share_and_stays_there() -> None:
    schedule = WarmUpDecay(1.0, 2, "linear", total_steps=6, final_share=0.2)
    # Of the four steps after the warm-up, none, a quarter, a half and three quarters of the way down from 1 to 0.2.
    assert rates(schedule, 8) == pytest.approx([0.5, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2, 0.2])


def test_it_falls_along_half_a_cosine() -> None:
    schedule = WarmUpDecay(2.0, 0, "cosine", total_steps=4, final_share=0.5)
    # cos 0, π/4, π/2, 3π/4, π: shares 0.5 + 0.25 (1 + cos).
    assert rates(schedule, 5) == pytest.approx([2.0, 1.8535534, 1.5, 1.1464466, 1.0])


def test_a_warm_up_longer_than_the_training_only_grows() -> None:
    schedule = WarmUpDecay(1.0, 10, "cosine", total_steps=4, final_share=0.0)
    assert rates(schedule, 4) == pytest.approx([0.1, 0.2, 0.3, 0.4])
