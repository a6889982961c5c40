"""Product vectors by skip-gram as a baseline."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.trainer.small_shop import TIME, VIEW, make_catalogue, make_sequences
from trainer.baselines import RecentPopularity, Units
from trainer.config import EvaluationConfig
from trainer.product2vec import Product2Vec, Product2VecVariant, choose_product2vec, fit_vectors
from trainer.queries import Queries, build_queries

CONFIG = EvaluationConfig()
POPULARITY = RecentPopularity(None, -np.arange(6, dtype=np.float32))
# 2 and 3 are orthogonal, 4 lies between them (3/5, 4/5); 5 has no vector.
VECTORS = np.array([[0, 0], [0, 0], [1, 0], [0, 1], [0.6, 0.8], [0, 0]], np.float32)


def make_units(sentences: list[list[int]]) -> Units:
    lengths = [len(sentence) for sentence in sentences]
    owners = np.repeat(np.arange(len(sentences)), lengths)
    return Units(np.concatenate(sentences).astype(np.int32), owners, np.zeros(len(sentences), np.int64))


def two_groups() -> Units:
    """Sessions of rows 2 … 6 and of rows 7 … 11, never of both."""
    rng = np.random.default_rng(3)
    return make_units([(rng.permutation(5) + 2 + 5 * (n % 2)).tolist() for n in range(300)])


def query(history: list[int], size: int = 6) -> Queries:
    interactions = [(row, 50 + age, VIEW) for age, row in enumerate(history)]
    sequences = make_sequences({"ann": [*interactions, (2, 150, VIEW)]})
    return build_queries(sequences, make_catalogue(size), TIME, "validation", CONFIG, 4)


def test_products_of_one_group_lie_together() -> None:
    vectors = fit_vectors(two_groups(), 12, window=5, seed=1)
    cosines = vectors[2:] @ vectors[2:].T
    group = np.arange(10) // 5
    same = group[:, None] == group
    assert cosines[same].min() > cosines[~same].max()


def test_vectors_have_unit_length_or_none() -> None:
    vectors = fit_vectors(make_units([[2, 3, 2], [4], [3, 2]]), 6, window=2, seed=1)
    # 4 stands alone, 5 nowhere.
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([0, 0, 1, 1, 0, 0])


def test_without_a_session_of_two_there_are_no_vectors() -> None:
    assert not fit_vectors(make_units([[2], [3]]), 4, window=2, seed=1).any()


def test_score_is_the_cosine_with_the_decayed_mean_of_the_history() -> None:
    model = Product2Vec(Product2VecVariant(decay=0.75, seen="recommended"), VECTORS, POPULARITY)
    scores = model.scores(query([2, 3]), 0, 1)[0]
    # The profile is (0.75, 1), of length 1.25; 4's cosine is 0.6 · 0.6 + 0.8 · 0.8.
    assert scores[2:5] == pytest.approx([0.6, 0.8, 1.0])
    # What has no vector follows, by popularity.
    assert scores[[0, 1, 5]].tolist() == [-1, -2, -6]


def test_as_others_leaves_out_what_a_product_has_of_itself() -> None:
    model = Product2Vec(Product2VecVariant(decay=0.75, seen="as_others"), VECTORS, POPULARITY)
    scores = model.scores(query([2, 4]), 0, 1)[0]
    length = np.hypot(0.75 + 0.6, 0.8)
    # 2 through 4: 0.6; 4 through 2: 0.75 · 0.6; 3 through 4: 0.8.
    assert scores[2:5] * length == pytest.approx([0.6, 0.8, 0.45], abs=1e-6)


def test_left_out_products_stand_behind_everything() -> None:
    scores = Product2Vec(Product2VecVariant(), VECTORS, POPULARITY).scores(query([2, 4]), 0, 1)[0]
    assert max(scores[[2, 4]]) < min(scores[[0, 1, 3, 5]])


def test_history_without_vectors_is_answered_by_popularity() -> None:
    model = Product2Vec(Product2VecVariant(seen="recommended"), VECTORS, POPULARITY)
    assert np.argsort(-model.scores(query([5]), 0, 1)[0]).tolist() == list(range(6))


def test_another_process_with_another_hash_seed_gives_the_same_vectors() -> None:
    code = (
        "import hashlib; from tests.trainer.test_product2vec import two_groups; from trainer.product2vec import "
        "fit_vectors; print(hashlib.sha256(fit_vectors(two_groups(), 12, 5, 7).tobytes()).hexdigest())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    ours = hashlib.sha256(fit_vectors(two_groups(), 12, 5, 7).tobytes()).hexdigest()
    assert run.stdout.strip() == ours
    assert hashlib.sha256(fit_vectors(two_groups(), 12, 5, 8).tobytes()).hexdigest() != ours


def test_validation_chooses_for_each_rule() -> None:
    # Groups of rows as above; everybody comes back to a product of the training span, and takes a new one too.
    rng, shoppers = np.random.default_rng(5), {}
    for n in range(60):
        rows = (rng.permutation(5) + 2 + 5 * (n % 2)).tolist()
        shoppers[f"u{n}"] = [*((row, 10, VIEW) for row in rows[:3]), (rows[2], 150, VIEW), (rows[3], 160, VIEW)]
    sequences, catalogue = make_sequences(shoppers), make_catalogue(12)
    either = build_queries(sequences, catalogue, TIME, "validation", CONFIG, 4)
    popularity = RecentPopularity.fit(sequences, catalogue, TIME, CONFIG, days=None)
    rules = [either, either.excluding_seen()]
    first, second = choose_product2vec(sequences, catalogue, popularity, rules, seed=1)
    assert first.baseline.settings()["seen"] != "left_out"
    # Two products of the group are left, one of them wanted.
    assert second.ndcg > 1 / np.log2(3)
