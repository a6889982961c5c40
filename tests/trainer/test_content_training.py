"""The encoder of pictures learns what categories and titles tell, from either alone."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from trainer.config import ContentConfig
from trainer.content_training import (
    ContentExamples,
    ContentModel,
    Titles,
    category_numbers,
    train_content,
)
from trainer.data import Words
from trainer.errors import TrainingError
from transform.feature_schema import Vocabulary

SIDE, COUNT = 16, 64
CONFIG = ContentConfig(
    image_height=SIDE, image_width=SIDE, image_dim=8, epochs=4, batch_size=16, learning_rate=1e-2, patience=4
)
NAMES = np.array([f"p{number}" for number in range(COUNT)], dtype=object)


def pictures() -> np.ndarray:
    """Odd ones are bright in their upper half, even ones in their lower half, with noise."""
    pixels = np.random.default_rng(0).integers(0, 60, (COUNT, SIDE, SIDE, 3), np.uint8)
    pixels[1::2, : SIDE // 2] += 180
    pixels[0::2, SIDE // 2 :] += 180
    return pixels


def words() -> Words:
    titles = np.array(["" if number % 8 == 0 else ("low", "high")[number % 2] for number in range(COUNT)], dtype=object)
    return Words.of(titles, Vocabulary(["high", "low"]), 3)


def examples(categories: bool = True, titles: bool = True) -> ContentExamples:
    kinds = (np.arange(COUNT) % 2).astype(np.int32)
    kinds[:6] = -1
    return ContentExamples(
        pictures(), kinds if categories else np.full(COUNT, -1, np.int32), 2 if categories else 0,
        words() if titles else None, 4,
    )  # fmt: skip


def separation(model: ContentModel) -> float:
    """How much nearer pictures of one kind are to one another than to those of the other."""
    vectors = model.image_vectors(tf.constant(pictures())).numpy()
    similarity = vectors @ vectors.T
    same = np.equal.outer(np.arange(COUNT) % 2, np.arange(COUNT) % 2)
    return float(similarity[same].mean() - similarity[~same].mean())


@pytest.mark.parametrize(("categories", "titles"), [(True, True), (True, False), (False, True)])
def test_two_kinds_are_told_apart_by_whatever_tells_them(categories: bool, titles: bool, tmp_path: Path) -> None:
    model, epochs = train_content(examples(categories, titles), NAMES, CONFIG, tmp_path)
    assert separation(model) > 0.5
    kept = min(epochs, key=lambda epoch: epoch.held_out_loss)
    assert kept.held_out_accuracy == (1.0 if categories else None)
    assert (kept.held_out_matches is None) is not titles
    assert json.loads((tmp_path / "history.json").read_text())[0]["epoch"] == 1


def test_titles_lie_by_their_pictures(tmp_path: Path) -> None:
    data = examples()
    model, _ = train_content(data, NAMES, CONFIG, tmp_path)
    images = model.image_vectors(tf.constant(data.pixels[[1, 2]])).numpy()
    titles = model.title_vectors(Titles(data.words).batch(np.array([3, 4]))).numpy()
    assert (images @ titles.T).argmax(axis=1).tolist() == [0, 1]


def test_a_title_without_words_is_no_vector(tmp_path: Path) -> None:
    data = examples()
    model = ContentModel(data, CONFIG)
    assert not model.title_vectors(Titles(data.words).batch(np.array([0]))).numpy().any()


def test_same_seed_same_weights(tmp_path: Path) -> None:
    short = replace(CONFIG, epochs=1)
    first, second, other = (
        train_content(examples(), NAMES, config, tmp_path / folder)[0].get_weights()
        for folder, config in (("1", short), ("2", short), ("3", replace(short, seed=2)))
    )
    for one, two in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, two)
    assert any((one != two).any() for one, two in zip(first, other, strict=True))


def test_a_killed_training_ends_where_it_would_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(CONFIG, epochs=3)
    whole, _ = train_content(examples(), NAMES, config, tmp_path / "whole")

    class KilledError(BaseException):
        pass

    original = tf.train.CheckpointManager.save

    def save(manager: tf.train.CheckpointManager, **options: object) -> None:
        original(manager, **options)
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(tf.train.CheckpointManager, "save", save)
        with pytest.raises(KilledError):
            train_content(examples(), NAMES, config, tmp_path / "killed")
    resumed, epochs = train_content(examples(), NAMES, config, tmp_path / "killed")
    assert [epoch.epoch for epoch in epochs] == [1, 2, 3]
    for one, two in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_nothing_to_learn_from_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError, match=r"received 64 products, 0 categories. Leave image out of transform.content_features"
    ):
        train_content(examples(categories=False, titles=False), NAMES, CONFIG, tmp_path)


def test_products_without_a_category_have_no_number() -> None:
    numbers, count = category_numbers(np.array(["b", "", "a", "b"], dtype=object))
    assert (numbers.tolist(), count) == ([1, -1, 0, 1], 2)
    assert category_numbers(np.array(["", ""], dtype=object))[1] == 0
    assert category_numbers(np.array(["a"], dtype=object))[0].tolist() == [0]
