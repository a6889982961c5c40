"""The encoder of pictures learns what categories and titles tell, from either alone."""

import json
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from trainer.config import ContentConfig
from trainer.content_training import (
    ContentEpoch,
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


class Trained(NamedTuple):
    """A training: what came of it, and where."""

    model: ContentModel
    epochs: list[ContentEpoch]
    folder: Path


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


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """With categories and titles, uninterrupted."""
    folder = tmp_path_factory.mktemp("trained")
    return Trained(*train_content(examples(), NAMES, CONFIG, folder), folder)


def check_told_apart(trained: Trained, categories: bool, titles: bool) -> None:
    assert separation(trained.model) > 0.5
    kept = min(trained.epochs, key=lambda epoch: epoch.held_out_loss)
    assert kept.held_out_accuracy == (1.0 if categories else None)
    assert (kept.held_out_matches is None) is not titles
    assert json.loads((trained.folder / "history.json").read_text())[0]["epoch"] == 1


def test_two_kinds_are_told_apart_by_categories_and_titles(trained: Trained) -> None:
    check_told_apart(trained, categories=True, titles=True)


@pytest.mark.parametrize(("categories", "titles"), [(True, False), (False, True)])
def test_two_kinds_are_told_apart_by_either_alone(categories: bool, titles: bool, tmp_path: Path) -> None:
    alone = Trained(*train_content(examples(categories, titles), NAMES, CONFIG, tmp_path), tmp_path)
    check_told_apart(alone, categories, titles)


def test_titles_lie_by_their_pictures(trained: Trained) -> None:
    data, model = examples(), trained.model
    images = model.image_vectors(tf.constant(data.pixels[[1, 2]])).numpy()
    titles = model.title_vectors(Titles(data.words).batch(np.array([3, 4]))).numpy()
    assert (images @ titles.T).argmax(axis=1).tolist() == [0, 1]


def test_a_title_without_words_is_no_vector(tmp_path: Path) -> None:
    data = examples()
    model = ContentModel(data, CONFIG)
    assert not model.title_vectors(Titles(data.words).batch(np.array([0]))).numpy().any()


def test_another_seed_gives_other_weights(trained: Trained, tmp_path: Path) -> None:
    other, _ = train_content(examples(), NAMES, replace(CONFIG, seed=2), tmp_path)
    assert any((one != two).any() for one, two in zip(trained.model.get_weights(), other.get_weights(), strict=True))


def test_a_killed_training_ends_where_it_would_have(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit: so the same seed gives the same weights, too."""

    class KilledError(BaseException):
        pass

    original = tf.train.CheckpointManager.save

    def save(manager: tf.train.CheckpointManager, **options: object) -> None:
        original(manager, **options)
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(tf.train.CheckpointManager, "save", save)
        with pytest.raises(KilledError):
            train_content(examples(), NAMES, CONFIG, tmp_path)
    resumed, epochs = train_content(examples(), NAMES, CONFIG, tmp_path)
    assert [epoch.epoch for epoch in epochs] == [1, 2, 3, 4]
    for one, two in zip(trained.model.get_weights(), resumed.get_weights(), strict=True):
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
