"""The candidate head: where it starts, what it reads, how it is saved."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from protos.feature_schema_pb2 import Clock
from tests.trainer.worlds import checkerboard_catalogue
from trainer.candidate_features import Candidates, ProductFacts, product_facts
from trainer.candidate_head import CandidateHead, load_head, save_head
from trainer.config import HeadConfig, Part
from trainer.model_files import ModelFilesError

CATALOGUE = checkerboard_catalogue()
ALL = HeadConfig().parts
NOW = 1_700_500_000
RANKER = np.array([[3.0, 1.0, 2.0], [0.0, 5.0, -1.0]], np.float32)
RETRIEVAL = np.array([[0.1, 0.9, 0.2], [0.3, 0.3, 0.8]], np.float32)


def make_head(*parts: Part, learned: bool = False) -> CandidateHead:
    tf.keras.utils.set_random_seed(5)
    head = CandidateHead(CATALOGUE, HeadConfig(parts=parts))
    if learned:
        for weight in head.trainable_variables:
            weight.assign_add(tf.random.normal(weight.shape, stddev=0.3))
    return head


def make_candidates(device: int = 2) -> Candidates:
    facts = ProductFacts(*(tf.constant(values) for values in product_facts(CATALOGUE)))
    table = tf.constant(np.random.default_rng(1).normal(size=(CATALOGUE.size, 4)).astype(np.float32))
    batch = {
        "history_rows": tf.constant([[0, 3, 5], [0, 0, 0]]),
        "history_types": tf.constant([[0, 2, 4], [0, 0, 0]]),
        "history_timestamps": tf.constant([[0, NOW - 90_000, NOW - 500], [0, 0, 0]], tf.int64),
        "context_timestamp": tf.constant([NOW, 0], tf.int64),
        "context_device": tf.constant([device, 0]),
        "context_region": tf.constant([0, 3]),
    }
    return Candidates(tf.constant([[5, 7, 4], [6, 0, 0]]), batch, table, facts)


def scores(head: CandidateHead, device: int = 2) -> np.ndarray:
    return head(make_candidates(device), tf.constant(RANKER), tf.constant(RETRIEVAL)).numpy()


def test_untrained_head_is_the_ranker_and_a_share_of_the_retrieval() -> None:
    np.testing.assert_allclose(scores(make_head(*ALL)), RANKER + 0.3 * RETRIEVAL, rtol=1e-6)


def test_head_without_parts_hands_the_rankers_scores_through() -> None:
    np.testing.assert_array_equal(scores(make_head()), RANKER)


def test_blend_reads_nothing_but_scores() -> None:
    head = make_head("retrieval")
    assert head.features(make_candidates()) == {}
    assert [weight.name.split(":")[0] for weight in head.variables] == ["score_weights", "score_scales"]


def test_head_without_the_retrieval_part_does_not_read_its_scores() -> None:
    head = make_head("history", "shopper", learned=True)
    other = head(make_candidates(), tf.constant(RANKER), tf.constant(-RETRIEVAL)).numpy()
    np.testing.assert_array_equal(other, scores(head))


@pytest.mark.parametrize("part", ["history", "attention", "popularity", "age", "price", "shopper", "context"])
def test_each_part_can_change_the_answer_and_be_left_out(part: Part) -> None:
    whole = scores(make_head(*ALL, learned=True))
    fewer = make_head(*(other for other in ALL if other != part), learned=True)
    assert part not in fewer.parts
    assert np.isfinite(scores(fewer)).all()
    assert not np.allclose(scores(fewer), whole)


def test_unknown_features_never_make_a_score_unknown() -> None:
    # The second shopper has no history, and the time of the request is unknown.
    assert np.isfinite(scores(make_head(*ALL, learned=True))).all()


def test_score_of_a_candidate_does_not_depend_on_the_others() -> None:
    head, given = make_head(*ALL, learned=True), make_candidates()
    alone = head(given._replace(rows=given.rows[:, :1]), tf.constant(RANKER[:, :1]), tf.constant(RETRIEVAL[:, :1]))
    np.testing.assert_allclose(alone.numpy(), scores(head)[:, :1], rtol=1e-5)


def test_device_is_read() -> None:
    head = make_head(*ALL, learned=True)
    assert not np.allclose(scores(head, device=2)[0], scores(head, device=3)[0])


def test_adapted_features_are_standardised_over_what_is_known() -> None:
    head = make_head("popularity")
    # Known and valid: 1, 3 and 8; mean 4, variance (9 + 1 + 16) / 3.
    values = np.array([[1.0, 3.0, np.nan], [8.0, 99.0, 99.0]], np.float32)
    features = {"candidate": np.stack([values, np.zeros_like(values)], axis=-1)}
    valid = np.array([[True, True, True], [True, False, False]])
    head.adapt(features, RANKER, RETRIEVAL, valid)
    np.testing.assert_allclose(head.candidate_moments.numpy()[:, 0], [4, np.sqrt(26 / 3)], rtol=1e-6)
    # Within the lists: 3, 1, 2 differ from their mean by 1, −1, 0; the second list has one candidate only.
    assert head.score_scales.numpy()[0] == pytest.approx(np.sqrt(2 / 4))


def test_products_that_training_never_met_get_their_bonus_with_any_parts() -> None:
    # Rows 24 and 25 are the checkerboard's new products.
    asked = make_candidates()._replace(rows=tf.constant([[5, 24, 4], [25, 0, 0]]))
    for parts in ((), ("retrieval",), ALL):
        head = CandidateHead(CATALOGUE, HeadConfig(parts=parts, new_product_tolerance=0.01))
        without = head(asked, tf.constant(RANKER), tf.constant(RETRIEVAL)).numpy()
        head.new_product_bonus.assign(0.5)
        expected = without + 0.5 * np.array([[0, 1, 0], [1, 0, 0]])
        np.testing.assert_allclose(head(asked, tf.constant(RANKER), tf.constant(RETRIEVAL)), expected, rtol=1e-6)


def test_a_catalogue_without_context_has_no_context_part() -> None:
    bare = checkerboard_catalogue(has_timestamps=False, content=False)
    del bare.schema.context[:]
    bare.prices[:] = np.nan
    head = CandidateHead(bare, HeadConfig())
    assert head.parts == ("retrieval", "history", "attention", "popularity", "shopper")


def test_the_context_has_what_the_schema_says_of_the_time() -> None:
    shop = checkerboard_catalogue()
    shop.schema.clock.CopyFrom(Clock(features=["weekday"]))
    head = CandidateHead(shop, HeadConfig(parts=("history", "context")))
    assert head.context_sizes == {"device": 4, "region": 4, "weekday": 8}
    # NOW is a Monday, and the second request has no time.
    assert head.features(make_candidates())["weekday"].numpy().tolist() == [1, 0]


_ASK = """
import sys
from pathlib import Path
import numpy as np
from tests.trainer.test_candidate_head import CATALOGUE, load_head, scores
np.save(sys.argv[2], scores(load_head(Path(sys.argv[1]), CATALOGUE)))
"""


def saved_head(folder: Path) -> CandidateHead:
    head = make_head("retrieval", "history", "age", "context", learned=True)
    save_head(folder, head, CATALOGUE)
    return head


def test_a_saved_head_is_loaded_as_it_was(tmp_path: Path) -> None:
    head = saved_head(tmp_path)
    loaded = load_head(tmp_path, CATALOGUE)
    np.testing.assert_array_equal(scores(loaded), scores(head))
    assert loaded.parts == head.parts


@pytest.mark.slow
def test_a_new_process_loads_the_same_head(tmp_path: Path) -> None:
    head = saved_head(tmp_path)
    file = str(tmp_path / "scores.npy")
    command = [sys.executable, "-c", _ASK, str(tmp_path), file]
    subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parents[2])
    np.testing.assert_allclose(np.load(file), scores(head), rtol=1e-6)


def test_a_folder_without_a_head_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFilesError, match=r"holds no trained head.*Run `tandem train-head` first"):
        load_head(tmp_path, CATALOGUE)


def test_the_age_of_unmet_products_is_read_only_by_a_head_that_met_them() -> None:
    asked = make_candidates()._replace(rows=tf.constant([[5, 24, 4], [25, 0, 0]]))
    head = make_head("age", learned=True)
    features = {name: tensor.numpy() for name, tensor in head.features(asked).items()}
    valid = np.array([[True, True, True], [True, False, False]])
    lists = {name: np.tile(values, (600, 1, 1)[: values.ndim]) for name, values in features.items()}
    known = {}
    for name, unmet in (("met", lists["unmet"]), ("not met", np.zeros_like(lists["unmet"]))):
        given = lists | {"unmet": unmet}
        head.adapt(given, np.tile(RANKER, (600, 1)), np.tile(RETRIEVAL, (600, 1)), np.tile(valid, (600, 1)))
        # All of the checkerboard's products are equally old: told apart from an unknown age by other moments.
        head.candidate_moments.assign([[0.0], [1.0]])
        known[name] = head(asked, tf.constant(RANKER), tf.constant(RETRIEVAL)).numpy()
    differ = ~np.isclose(known["met"], known["not met"], atol=1e-6)
    # The first shopper's request has a time: the age of 24 counts where such products were met.
    assert differ[0].tolist() == [False, True, False]
