"""What explanation.json says."""

import json
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from tests.trainer.worlds import checkerboard_catalogue, checkerboard_sequences
from trainer.config import EvaluationConfig, RankerConfig
from trainer.explanation_report import agreement, explanation_report, learned_biases
from trainer.queries import Split, build_queries
from trainer.ranker import Ranker
from trainer.scorers import RankerScorer

LENGTH = 4
CATALOGUE = checkerboard_catalogue()
CONFIG = RankerConfig(dim=8, history_length=LENGTH, blocks=1, heads=2)


def make_ranker(**settings: object) -> Ranker:
    tf.keras.utils.set_random_seed(4)
    return Ranker(CATALOGUE, replace(CONFIG, **settings))


def test_agreement_is_the_mean_rank_correlation_with_the_sizes() -> None:
    valid = np.array([[False, True, True, True, True, True]] * 2 + [[False] * 5 + [True]])
    # Attention in the order of the sizes, then against it; sizes grow with time.
    attention = np.array([[0, 1, 2, 3, 4, 5], [0, 5, 4, 3, 2, 1], [0, 0, 0, 0, 0, 1]])
    attributions = np.array([[0, 1, -2, 3, -4, 5]] * 2 + [[0, 0, 0, 0, 0, 1]])
    found = agreement(valid, attention, attributions)
    # The third history is too short to be counted.
    assert found["shoppers"] == 2
    assert found["attention"] == pytest.approx(0)
    assert found["recency"] == pytest.approx(1)


def test_agreement_counts_no_history_whose_order_nothing_tells() -> None:
    even = np.full([1, 6], 0.5)
    assert agreement(np.ones([1, 6], bool), even, even) == {
        "shoppers": 0,
        "fewest_slots": 5,
        "attention": None,
        "recency": None,
    }


def test_distance_biases_start_at_the_slot_itself() -> None:
    ranker = make_ranker()
    # Place 3 is distance 0; what is 3 back stands first.
    ranker.blocks[0].attention.position_bias.bias.assign([[3, 2, 1, 0, -1, -2, -3], [0, 0, 0, 5, 0, 0, 0]])
    distance = learned_biases(ranker)["blocks"][0]["distance"]
    assert distance == {"first": 0, "heads": [[0, 1, 2, 3], [5, 0, 0, 0]]}


def test_masked_question_has_biases_to_both_sides() -> None:
    ranker = make_ranker(objective="masked_item")
    ranker.blocks[0].attention.position_bias.bias.assign([[3, 2, 1, 0, -1, -2, -3], [0, 0, 0, 5, 0, 0, 0]])
    distance = learned_biases(ranker)["blocks"][0]["distance"]
    assert distance == {"first": -3, "heads": [[-3, -2, -1, 0, 1, 2, 3], [0, 0, 0, 5, 0, 0, 0]]}


def test_time_biases_have_a_number_for_each_bucket() -> None:
    ranker = make_ranker()
    ranker.blocks[0].attention.time_bias.bias.assign(np.stack([np.arange(29), np.zeros(29)], axis=1))
    biases = learned_biases(ranker)
    assert biases["blocks"][0]["time"] == [list(range(29)), [0] * 29]
    # Bucket 5 begins at 2³ seconds.
    assert biases["time_from"][:6] == [None, 0, 1, 2, 4, 8]
    assert len(biases["time_from"]) == 29


def test_places_are_alike_by_their_cosines() -> None:
    ranker = make_ranker(positions=("absolute",), time_bias=False)
    vectors = np.zeros([LENGTH, 8])
    vectors[:, 0] = [1, 2, 0, -1]
    vectors[2, 1] = 3
    ranker.history_embedding.position_embedding.assign(vectors)
    biases = learned_biases(ranker)
    assert biases["places"] == [[1, 1, 0, -1], [1, 1, 0, -1], [0, 0, 1, 0], [-1, -1, 0, 1]]
    assert biases["blocks"] == [{"distance": None, "time": None}]


@pytest.fixture(scope="module")
def reported() -> dict:
    ranker, sequences = make_ranker(history_length=6), checkerboard_sequences()
    for weight in ranker.trainable_variables:
        weight.assign_add(tf.random.stateless_normal(weight.shape, [1, 2], stddev=0.3))
    config = EvaluationConfig(explained_users=5, explanation_steps=8)
    queries = build_queries(sequences, CATALOGUE, Split("leave_one_out", None, None), "test", config, 1)
    users = [str(sequences.user_ids[user]) for user in queries.users[[3, 0]]]
    product = str(CATALOGUE.item_ids[7])
    examples = [{"user_id": user, "recommended": [product, "nowhere"]} for user in users]
    return explanation_report(ranker, RankerScorer(ranker, 8), CATALOGUE, queries, examples, config)


def test_examples_are_explained_over_what_the_ranker_reads(reported: dict) -> None:
    first, second = reported["shoppers"]
    assert (first["user_id"], second["user_id"]) == ("black-shopper-003", "white-shopper-000")
    sequences = checkerboard_sequences()
    # All but the last interaction of the fourth shopper are the history.
    rows = sequences.rows[sequences.offsets[3] : sequences.offsets[4] - 1]
    assert first["history"] == [str(CATALOGUE.item_ids[row]) for row in rows[-6:]]
    assert len(first["attention"]) == len(first["attributions"]) == 6
    assert sum(first["attention"]) == pytest.approx(1, abs=1e-3)


def test_attributions_add_up_to_what_the_products_make(reported: dict) -> None:
    for shopper in reported["shoppers"]:
        made = shopper["score"] - shopper["baseline_score"]
        assert sum(shopper["attributions"]) == pytest.approx(made, abs=0.05 * abs(made) + 0.01)


def test_report_measures_as_many_shoppers_as_asked_and_is_json(reported: dict) -> None:
    assert reported["agreement"]["shoppers"] == 5
    assert -1 <= reported["agreement"]["attention"] <= 1
    assert reported["completeness"]["mean_error"] < 0.05 * reported["completeness"]["mean_difference"]
    json.dumps(reported, allow_nan=False)
