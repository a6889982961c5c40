"""Both stages trained end to end on a world whose answer anyone can see."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from pydantic import ValidationError

from protos.feature_schema_pb2 import FeatureSchema
from tests.trainer.test_retrieval import make_query
from tests.trainer.worlds import checkerboard_catalogue, checkerboard_sequences, write_transform
from trainer import ranker_training
from trainer.config import RankerConfig, RetrievalConfig, TrainingConfig
from trainer.loop import TrainingError
from trainer.model_files import ModelFilesError, read_description
from trainer.ranker import Ranker, load_ranker
from trainer.ranker_training import train_ranker
from trainer.retrieval import RetrievalModel, load_retrieval
from trainer.retrieval_training import train_retrieval
from trainer.warm_start import Previous
from transform.tables import FIRST

CATALOGUE = checkerboard_catalogue()
TRAINING = TrainingConfig(epochs=8, batch_size=4, learning_rate=0.02, warmup_steps=5, patience=8)
RANKER = RankerConfig(training=TRAINING, dim=8, history_length=16, blocks=1, heads=2, dropout=0.1)
RETRIEVAL = RetrievalConfig(
    training=TRAINING, dim=8, history_length=16, heads=2, temperature=0.2, positives=16, uniform_negatives=16
)
ROWS = np.arange(FIRST, CATALOGUE.size)
BLACK_HISTORY, WHITE_HISTORY = [5, 7, 9], [4, 6, 8]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("world")
    write_transform(directory, CATALOGUE, checkerboard_sequences())
    return directory


@pytest.fixture(scope="module")
def ranker_dir(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("ranker")
    train_ranker(world, directory, RANKER, directory / "logs")
    return directory


@pytest.fixture(scope="module")
def retrieval_dir(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("retrieval")
    train_retrieval(world, directory, RETRIEVAL, directory / "logs")
    return directory


def ranker_scores(model: Ranker) -> np.ndarray:
    states = model.encode(make_query(BLACK_HISTORY, WHITE_HISTORY))
    return model.score_catalogue(states, model.item_table()).numpy()[:, ROWS]


def retrieval_scores(model: RetrievalModel) -> np.ndarray:
    queries = model.query_embeddings(make_query(BLACK_HISTORY, WHITE_HISTORY))
    return queries.numpy() @ model.candidate_embeddings(tf.constant(ROWS)).numpy().T


def colour_separation(scores: np.ndarray) -> float:
    """Share of (own colour, other colour) pairs in the right order, over both shoppers; chance is 0.5.

    Only of products that neither has met: in this world nobody meets a product twice.
    """
    unmet = ~np.isin(ROWS, BLACK_HISTORY + WHITE_HISTORY)
    black, white = scores[:, unmet & (ROWS % 2 == 1)], scores[:, unmet & (ROWS % 2 == 0)]
    return float(np.mean([black[0][:, None] > white[0], white[1][:, None] > black[1]]))


def test_ranker_learns_the_checkerboard_and_places_new_products_by_content(ranker_dir: Path) -> None:
    assert colour_separation(ranker_scores(load_ranker(ranker_dir, CATALOGUE))) > 0.95


def test_ranker_learns_that_nobody_meets_a_product_twice(ranker_dir: Path) -> None:
    scores = ranker_scores(load_ranker(ranker_dir, CATALOGUE))
    black, white = np.isin(ROWS, BLACK_HISTORY), np.isin(ROWS, WHITE_HISTORY)
    assert scores[0, black].max() < scores[0, (ROWS % 2 == 1) & ~black].min()
    assert scores[1, white].max() < scores[1, (ROWS % 2 == 0) & ~white].min()


def test_retrieval_learns_the_checkerboard_and_places_new_products_by_content(retrieval_dir: Path) -> None:
    assert colour_separation(retrieval_scores(load_retrieval(retrieval_dir, CATALOGUE))) > 0.95


def test_one_click_makes_the_retrieval_personal(retrieval_dir: Path) -> None:
    """A visitor who clicked one product, be it new, is nearer to products of its colour than to any other."""
    model = load_retrieval(retrieval_dir, CATALOGUE)
    vectors = model.candidate_embeddings(tf.constant(ROWS)).numpy()
    black, white = vectors[ROWS % 2 == 1], vectors[ROWS % 2 == 0]
    for row in (5, 11, 24, 25, 4, 12):
        query = model.query_embeddings(make_query([row])).numpy()[0]
        own, other = (black, white) if row % 2 else (white, black)
        assert (own @ query).mean() > (other @ query).max()


_ASK = """
import sys
from pathlib import Path
import numpy as np
from tests.trainer.test_training import CATALOGUE, load_ranker, load_retrieval, ranker_scores, retrieval_scores
np.save(sys.argv[3], ranker_scores(load_ranker(Path(sys.argv[1]), CATALOGUE)))
np.save(sys.argv[4], retrieval_scores(load_retrieval(Path(sys.argv[2]), CATALOGUE)))
"""


def test_a_new_process_loads_the_same_models(ranker_dir: Path, retrieval_dir: Path, tmp_path: Path) -> None:
    files = [str(tmp_path / "ranker.npy"), str(tmp_path / "retrieval.npy")]
    arguments = [sys.executable, "-c", _ASK, str(ranker_dir), str(retrieval_dir), *files]
    subprocess.run(arguments, check=True, capture_output=True, cwd=Path(__file__).parents[2])
    np.testing.assert_allclose(np.load(files[0]), ranker_scores(load_ranker(ranker_dir, CATALOGUE)), atol=1e-5)
    np.testing.assert_allclose(np.load(files[1]), retrieval_scores(load_retrieval(retrieval_dir, CATALOGUE)), atol=1e-5)


def test_catalogue_features_are_not_saved(ranker_dir: Path) -> None:
    # The table of 26 products × 8 appears once, as 24 id rows; nothing else is as long as the catalogue but the layer
    # that reads the attributes, three times 8 numbers and a price's two.
    weights = tf.train.list_variables(str(ranker_dir / "weights"))
    long = {name for name, shape in weights if shape and shape[0] == CATALOGUE.size}
    assert all("hidden/attributes" in name for name in long)


def test_a_killed_ranker_training_ends_with_the_same_bits(
    world: Path, ranker_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = ranker_training.RankerSteps.epoch

    def killed(self: ranker_training.RankerSteps, number: int) -> object:
        for index, step in enumerate(original(self, number)):
            if (number, index) == (3, 2):
                raise KeyboardInterrupt
            yield step

    with monkeypatch.context() as patch:
        patch.setattr(ranker_training.RankerSteps, "epoch", killed)
        with pytest.raises(KeyboardInterrupt):
            train_ranker(world, tmp_path, RANKER, tmp_path / "logs")
    assert not (tmp_path / "model.json").exists()
    train_ranker(world, tmp_path, RANKER, tmp_path / "logs")
    whole, resumed = load_ranker(ranker_dir, CATALOGUE), load_ranker(tmp_path, CATALOGUE)
    for expected, actual in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize(
    ("stage", "train", "config"), [("ranker", train_ranker, RANKER), ("retrieval", train_retrieval, RETRIEVAL)]
)
def test_a_warm_start_goes_on_from_the_earlier_run_and_tells_how_far_products_moved(
    world: Path, tmp_path: Path, request: pytest.FixtureRequest, stage: str, train: Callable[..., None], config: Any
) -> None:
    earlier = request.getfixturevalue(f"{stage}_dir")
    gentle = replace(config, training=replace(config.training, epochs=1, learning_rate=1e-4))
    train(world, tmp_path / "warm", gentle, tmp_path / "logs", previous=Previous(earlier, world))
    cold, warm = (json.loads((folder / "history.json").read_text()) for folder in (earlier, tmp_path / "warm"))
    assert warm[0]["loss"] < cold[0]["loss"] - 0.1
    drift = json.loads((tmp_path / "warm" / "drift.json").read_text())
    assert drift["items"] == 22
    assert 0 < drift["mean_cosine_distance"] < 0.01
    assert drift["neighbour_overlap"] > 0.9
    assert not (earlier / "drift.json").exists()


def test_width_that_the_heads_do_not_divide_is_refused(world: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"divisible by ranker\.heads, received dim = 10, heads = 4"):
        train_ranker(world, tmp_path, RankerConfig(dim=10, heads=4), tmp_path / "logs")
    with pytest.raises(TrainingError, match=r"divisible by retrieval\.heads, received dim = 10, heads = 4"):
        train_retrieval(world, tmp_path, RetrievalConfig(dim=10, heads=4), tmp_path / "logs")


def test_no_validation_data_is_refused(tmp_path: Path) -> None:
    sequences = checkerboard_sequences()
    sequences.train_end[:] = sequences.lengths
    sequences.validation_end[:] = sequences.lengths
    write_transform(tmp_path / "world", CATALOGUE, sequences)
    with pytest.raises(ValueError, match="no shopper has interactions both in the training and in the validation span"):
        train_ranker(tmp_path / "world", tmp_path / "out", RANKER, tmp_path / "logs")


def test_a_negative_learning_rate_is_refused() -> None:
    with pytest.raises(ValidationError, match="learning_rate"):
        TrainingConfig(learning_rate=-1.0)


def test_a_directory_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFilesError, match=r"holds no trained ranker.*Run `tandem train-ranker` first"):
        load_ranker(tmp_path, CATALOGUE)


def test_the_other_stages_model_is_refused(ranker_dir: Path) -> None:
    with pytest.raises(ModelFilesError, match="kind is 'ranker', expected 'retrieval'"):
        load_retrieval(ranker_dir, CATALOGUE)


def test_a_model_of_another_catalogue_is_refused(ranker_dir: Path) -> None:
    with pytest.raises(ModelFilesError, match="another feature schema"):
        load_ranker(ranker_dir, checkerboard_catalogue(new_items=3))


def test_a_model_fits_a_catalogue_that_has_grown(ranker_dir: Path) -> None:
    grown = FeatureSchema()
    grown.CopyFrom(CATALOGUE.schema)
    grown.catalogue_size += 5
    assert read_description(ranker_dir, "ranker", grown) == read_description(ranker_dir, "ranker", CATALOGUE.schema)


@pytest.mark.slow
def test_the_training_step_compiles_with_xla(world: Path, tmp_path: Path) -> None:
    training = TrainingConfig(epochs=1, batch_size=16, jit_compile=True)
    for train, config in (
        (train_ranker, RankerConfig(training=training, dim=8, history_length=16, blocks=1, heads=2)),
        (train_retrieval, RetrievalConfig(training=training, dim=8, history_length=16, heads=2, positives=16)),
    ):
        train(world, tmp_path / train.__name__, config, tmp_path / "logs")
        assert (tmp_path / train.__name__ / "model.json").is_file()
