"""Training of the candidate head: loss and metric by hand, and that it is kept only where it helps."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.trainer.worlds import checkerboard_catalogue, checkerboard_sequences, write_transform
from trainer.candidate_head import CandidateHead, load_head
from trainer.config import EvaluationConfig, HeadConfig, RankerConfig, RetrievalConfig
from trainer.head_training import Examples, choose_bonus, choose_parts, list_loss, list_ndcg, shopper_folds, train_head
from trainer.loop import TrainingError
from trainer.metrics import ndcg
from trainer.model_files import save_model
from trainer.queries import Lists
from trainer.ranker import Ranker
from trainer.ranking import candidate_rows, order_keys, rank_truth, reordered_keys, two_stage_keys
from trainer.retrieval import RetrievalModel

CATALOGUE = checkerboard_catalogue()
CONFIG = HeadConfig(parts=("retrieval", "popularity"), steps=80, folds=2, learning_rate=0.05)
LISTS, CANDIDATES = 120, 12


def make_examples(rng: np.random.Generator, right: str) -> Examples:
    """Lists of random numbers, in which the right candidate has the highest of one kind."""
    ranker, retrieval, popularity = rng.normal(size=(3, LISTS, CANDIDATES)).astype(np.float32)
    unmet = np.zeros_like(popularity)
    unmet[:, 3] = 1
    decisive = {"ranker": ranker, "popularity": popularity, "both": ranker + retrieval}[right]
    return Examples(
        user_ids=np.array([f"shopper-{number}" for number in range(LISTS)], dtype=object),
        rows=np.tile(np.arange(2, 2 + CANDIDATES, dtype=np.int32), (LISTS, 1)),
        ranker_scores=ranker,
        retrieval_scores=retrieval,
        relevant=decisive == decisive.max(axis=1, keepdims=True),
        truth_sizes=np.ones(LISTS, np.int64),
        features={"candidate": np.stack([popularity, unmet], axis=-1), "unmet": unmet},
        names={"candidate": ("log_train_count", "unmet"), "shopper": ()},
    )


def chosen(right: str) -> dict:
    tf.keras.utils.set_random_seed(2)
    report, parts, bonus = choose_parts(make_examples(np.random.default_rng(4), right), CATALOGUE, CONFIG)
    assert bonus == 0
    assert report["parts"] == list(parts)
    return report


def test_a_head_that_helps_is_kept_with_what_its_parts_give() -> None:
    report = chosen("popularity")
    assert report["kept"] in ("head", "head without retrieval")
    assert report["out_of_fold"]["head"]["ndcg@10"] > 0.95
    assert report["gives"]["popularity"] > 0.2
    whole, ranker = (report["out_of_fold"][name]["ndcg@10"] for name in ("head", "ranker"))
    assert report["out_of_fold"]["head"]["difference_from_ranker"] == pytest.approx(whole - ranker)


def test_a_blend_is_kept_where_both_scores_are_all_there_is() -> None:
    report = chosen("both")
    assert "retrieval" in report["parts"]
    assert report["out_of_fold"]["blend"]["ndcg@10"] > report["out_of_fold"]["ranker"]["ndcg@10"] + 0.05


def test_nothing_is_added_to_a_ranker_that_cannot_be_better() -> None:
    report = chosen("ranker")
    assert report["kept"] == "ranker"
    assert report["parts"] == []
    assert report["out_of_fold"]["ranker"]["ndcg@10"] == report["attainable"] == 1


def test_new_products_get_the_largest_bonus_that_costs_no_more_than_is_tolerated() -> None:
    # One list of two: the right one leads by 2; a bonus of 2 and more puts the new one before it, for 1 − 1 / log₂ 3.
    rng = np.random.default_rng(4)
    lists = make_examples(rng, "ranker")
    scores = np.zeros((LISTS, CANDIDATES), np.float32)
    scores[:, 0], scores[:, 4:] = 2.0, -9.0
    relevant = np.zeros(scores.shape, bool)
    relevant[:, 0] = True
    lists = replace(lists, relevant=relevant)
    step = 0.05 * scores.std()
    bonus, report = choose_bonus(scores, lists, tolerance=0.1)
    assert bonus <= 2.0 < bonus + step
    assert report["ndcg@10"] == {"without": 1.0, "with": 1.0}
    allowed, report = choose_bonus(scores, lists, tolerance=0.4)
    assert allowed == pytest.approx(80 * step, rel=1e-5)
    assert report["ndcg@10"]["with"] == pytest.approx(1 / math.log2(3))
    assert choose_bonus(scores, lists, tolerance=0.0)[0] == 0


def test_loss_sets_each_right_answer_against_the_wrong_ones() -> None:
    scores = tf.constant([[2.0, 1.0, 0.0, 3.0, 9.0], [1.0, 2.0, 3.0, 4.0, 5.0]])
    relevant = tf.constant([[True, False, False, True, False], [False] * 5])
    valid = tf.constant([[True, True, True, True, False], [True] * 5])
    # Wrong are 1 and 0, the last is no candidate: log(e + 1) = 1.31326. Right are 2 and 3; the second list has none.
    wrong = math.log(math.e + 1)
    expected = (math.log1p(math.exp(wrong - 2)) + math.log1p(math.exp(wrong - 3))) / 2 / 2
    assert float(list_loss(scores, relevant, valid)) == pytest.approx(expected, rel=1e-5)


def test_loss_of_a_list_without_wrong_answers_is_nothing() -> None:
    everything = tf.constant([[True, True]])
    assert float(list_loss(tf.constant([[1.0, 2.0]]), everything, everything)) == 0


@pytest.mark.parametrize("seed", range(5))
def test_list_metric_and_keys_agree_with_the_evaluation(seed: int) -> None:
    rng, queries, size, candidates = np.random.default_rng(seed), 7, 20, 11
    retrieval, ranker = rng.integers(0, 6, (2, queries, size)).astype(np.float32)
    excluded, own = rng.random((2, queries, size)) < 0.2
    excluded[:, :2] = True
    right = (rng.random((queries, size)) < 0.2) & ~excluded
    right[:, 5], excluded[:, 5] = True, False
    retrieved, ranked = (order_keys(scores, excluded) for scores in (retrieval, ranker))
    rows = np.sort(candidate_rows(retrieved, own, candidates), axis=1)
    scores = np.take_along_axis(ranker, rows, axis=1)

    together = reordered_keys(retrieved, rows, scores)
    np.testing.assert_array_equal(together, two_stage_keys(retrieved, ranked, own, candidates))

    owners, truth_rows = np.nonzero(right)
    sizes = np.bincount(owners, minlength=queries)
    truth = Lists(np.concatenate([[0], np.cumsum(sizes)]), truth_rows.astype(np.int32))
    relevant = np.take_along_axis(right, rows, axis=1) & (rows > 0)
    examples = Examples(np.array(["x"] * queries, object), rows, scores, scores, relevant, sizes, {}, {})
    ranks = rank_truth(together, truth)
    # Truth that is no candidate stands behind ten others only if there are ten candidates.
    full = (rows > 0).sum(axis=1) >= 10
    np.testing.assert_allclose(list_ndcg(scores, examples)[full], ndcg(ranks, truth, 10)[full])


def test_folds_are_a_matter_of_the_shopper_alone() -> None:
    users = np.array([f"user {number}" for number in range(1_000)], dtype=object)
    folds = shopper_folds(users, 4, seed=1)
    np.testing.assert_array_equal(shopper_folds(users[::-1][:10], 4, seed=1), folds[::-1][:10])
    assert np.bincount(folds).min() > 200
    assert (shopper_folds(users, 4, seed=2) != folds).any()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transform and two stages that have learned nothing."""
    folder = tmp_path_factory.mktemp("world")
    write_transform(folder / "transform", CATALOGUE, checkerboard_sequences())
    tf.keras.utils.set_random_seed(3)
    retrieval, ranker = RetrievalConfig(dim=8, history_length=6, heads=1), RankerConfig(dim=8, history_length=4)
    save_model(folder / "retrieval", "retrieval", RetrievalModel(CATALOGUE, retrieval), retrieval, CATALOGUE.schema)
    save_model(folder / "ranker", "ranker", Ranker(CATALOGUE, ranker), ranker, CATALOGUE.schema)
    return folder


def train(world: Path, output: Path, config: HeadConfig) -> dict:
    stages = (world / name for name in ("transform", "retrieval", "ranker"))
    output.mkdir()
    train_head(*stages, output, config, EvaluationConfig(candidates=10), output / "logs")
    return json.loads((output / "head.json").read_text())


def test_training_twice_gives_the_same_head_and_says_what_was_tried(world: Path, tmp_path: Path) -> None:
    config = HeadConfig(parts=("retrieval", "history", "attention", "context"), steps=5, folds=2, hidden=4)
    reports = [train(world, tmp_path / name, config) for name in ("one", "two")]
    assert reports[0] == reports[1]
    heads = [load_head(tmp_path / name, CATALOGUE) for name in ("one", "two")]
    assert list(heads[0].parts) == reports[0]["parts"]
    for first, second in zip(heads[0].get_weights(), heads[1].get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)
    lacking = {f"head without {part}" for part in config.parts}
    assert set(reports[0]["out_of_fold"]) == {"ranker", "blend", "head"} | lacking
    assert reports[0]["shoppers"] == 32


def test_a_head_without_parts_is_not_trained(world: Path, tmp_path: Path) -> None:
    report = train(world, tmp_path / "none", HeadConfig(parts=()))
    assert set(report["out_of_fold"]) == {"ranker"}
    assert isinstance(load_head(tmp_path / "none", CATALOGUE), CandidateHead)


def test_more_folds_than_shoppers_are_refused(world: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"head\.folds = 500 divides 32 validation shoppers"):
        train(world, tmp_path / "many", HeadConfig(folds=500))


def test_no_validation_data_is_refused(world: Path, tmp_path: Path) -> None:
    sequences = checkerboard_sequences()
    sequences.train_end[:] = sequences.lengths
    sequences.validation_end[:] = sequences.lengths
    write_transform(tmp_path / "transform", CATALOGUE, sequences)
    stages = (tmp_path / "transform", world / "retrieval", world / "ranker")
    with pytest.raises(TrainingError, match="no shopper has both a history before the validation span"):
        train_head(*stages, tmp_path, HeadConfig(), EvaluationConfig(), tmp_path / "logs")
