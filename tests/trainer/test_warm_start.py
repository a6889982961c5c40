"""A warm start finds rows by their strings, copies the rest, refuses what does not fit, and keeps embeddings near."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from protos.feature_schema_pb2 import Clock
from tests.trainer.worlds import checkerboard_catalogue, checkerboard_sequences, write_transform
from trainer.catalogue_encoder import CatalogueEncoder
from trainer.config import ItemEncoderConfig, RankerConfig, RetrievalConfig, TrainingConfig
from trainer.data import Catalogue
from trainer.drift import Drift, embedding_drift
from trainer.errors import TrainingError
from trainer.item_encoder import ItemEncoder
from trainer.ranker import Ranker
from trainer.retrieval import RetrievalModel
from trainer.train_step import TrainStep
from trainer.warm_start import match_rows, warm_start
from transform.feature_schema import Vocabulary, read_vocabulary, write_vocabulary
from transform.tables import FIRST, UNKNOWN

MOVED = 3
STEPS = 200


def next_day(catalogue: Catalogue) -> Catalogue:
    """Rows in another order; three products with an id row are gone, three that had none have one now.

    The first two categories have changed their numbers.
    """
    order = np.concatenate([[0, 1], np.arange(catalogue.size - 1, FIRST - 1, -1)])
    id_rows = np.zeros(catalogue.size, np.int32)
    new = np.arange(FIRST, FIRST + MOVED)  # were the last ones
    gone = np.arange(catalogue.size - MOVED, catalogue.size)
    own = np.setdiff1d(np.arange(FIRST, catalogue.size), gone)
    id_rows[own] = np.arange(len(own)) + FIRST
    id_rows[[1, *gone]] = UNKNOWN
    assert (catalogue.id_rows[order][new] == UNKNOWN).all()
    item_ids = catalogue.item_ids[order].copy()
    item_ids[gone] = [f"later-{number}" for number in range(MOVED)]
    features = {name: values[order].copy() for name, values in catalogue.features.items()}
    swapped = {FIRST: FIRST + 1, FIRST + 1: FIRST}
    features["category"] = np.vectorize(lambda number: swapped.get(number, number))(features["category"])
    features["category"] = features["category"].astype(np.int32)
    words = {name: replace(values, places=values.places[order]) for name, values in catalogue.words.items()}
    return replace(catalogue, item_ids=item_ids, id_rows=id_rows, features=features, words=words)


def first_day() -> Catalogue:
    return checkerboard_catalogue(new_items=MOVED)


def write_days(directory: Path) -> tuple[Path, Path]:
    """Transforms of both days."""
    sequences = checkerboard_sequences(new_items=MOVED)
    for name, catalogue in (("first", first_day()), ("next", next_day(first_day()))):
        write_transform(directory / name, catalogue, sequences)
    words = read_vocabulary(directory / "next" / "vocabularies" / "category.txt")[FIRST:]
    write_vocabulary(directory / "next" / "vocabularies" / "category.txt", [words[1], words[0], *words[2:]])
    return directory / "first", directory / "next"


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_days(tmp_path_factory.mktemp("days"))


def save(model: tf_keras.Model, directory: Path) -> Path:
    tf.train.Checkpoint(model=model).write(str(directory / "weights"))
    return directory


def test_rows_are_matched_by_their_strings() -> None:
    values = np.array([[0.0], [0.1], [0.2], [0.3]])
    matched = match_rows(values, Vocabulary(["a", "b"]), Vocabulary(["b", "c", "a"]))
    assert matched[:, 0].tolist() == [0.0, 0.1, 0.3, 0.1, 0.2]


def test_a_value_that_was_rare_goes_on_from_its_bucket() -> None:
    previous = Vocabulary(["a"], 2)
    values = np.array([[0.0], [0.1], [0.2], [0.3], [0.4]])
    own = 3 + 2640714258260161385 % 2  # Fingerprint64("abc")
    kept = match_rows(values, previous, Vocabulary(["abc", "a"], 2))
    assert kept[:, 0].tolist() == [0.0, 0.1, values[own, 0], 0.2, 0.3, 0.4]
    other = match_rows(values, previous, Vocabulary(["a"], 3))
    assert other[:, 0].tolist() == [0.0, 0.1, 0.2, 0.1, 0.1, 0.1]
    without = match_rows(values[:3], Vocabulary(["a"]), previous)
    assert without[:, 0].tolist() == [0.0, 0.1, 0.2, 0.1, 0.1]


@pytest.mark.parametrize("kind", ["ranker", "retrieval"])
def test_products_keep_their_vectors_and_new_ones_start_from_content(
    tmp_path: Path, days: tuple[Path, Path], kind: str
) -> None:
    def make(catalogue: Catalogue, seed: int) -> Ranker | RetrievalModel:
        tf_keras.utils.set_random_seed(seed)
        if kind == "ranker":
            return Ranker(catalogue, RankerConfig(dim=8, history_length=8, blocks=1))
        return RetrievalModel(catalogue, RetrievalConfig(dim=8, history_length=8))

    catalogue = next_day(first_day())
    previous, current = make(first_day(), 1), make(catalogue, 2)
    outcome = warm_start(current, catalogue, days[1], save(previous, tmp_path), days[0])
    assert (len(outcome.kept_rows), outcome.added, outcome.dropped) == (18, 3, 3)
    then = {name: row for row, name in enumerate(first_day().item_ids)}
    before, now = previous.item_table().numpy(), current.item_table().numpy()
    backwards = previous.products.features(tf.range(catalogue.size)[::-1])
    unknown = previous.item_encoder.encode(backwards, np.full(catalogue.size, UNKNOWN)).numpy()
    for row in range(FIRST, catalogue.size):
        name = catalogue.item_ids[row]
        if row in outcome.kept_rows:
            assert name in then
            np.testing.assert_array_equal(now[row], before[then[name]])
        elif row < FIRST + MOVED:
            np.testing.assert_allclose(now[row], unknown[row - FIRST], atol=1e-6)
    others = [
        (one, other)
        for one, other in zip(previous.weights, current.weights, strict=True)
        if one.shape == other.shape and one.shape[0] not in (FIRST + 4, current.item_encoder.id_embedding_size)
    ]
    assert len(others) > 10
    assert all((one.numpy() == other.numpy()).all() for one, other in others)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"dim": 16}, r"same shape: \S+ is \[.*8.*\] in .* and \[.*16.*\] here"),
        ({"blocks": 2}, r"model of the same parts: .* not there, such as blocks/1/"),
        ({"history_length": 9}, r"same shape: \S+ is \[8.* and \[9.* here"),
    ],
)
def test_a_model_of_another_shape_is_refused(
    tmp_path: Path, days: tuple[Path, Path], options: dict[str, int], sentence: str
) -> None:
    save(Ranker(first_day(), RankerConfig(dim=8, history_length=8, blocks=1)), tmp_path)
    catalogue = next_day(first_day())
    model = Ranker(catalogue, RankerConfig(**{"dim": 8, "history_length": 8, "blocks": 1, **options}))
    untouched = [weight.numpy() for weight in model.weights]
    with pytest.raises(TrainingError, match=sentence):
        warm_start(model, catalogue, days[1], tmp_path, days[0])
    assert all((weight.numpy() == start).all() for weight, start in zip(model.weights, untouched, strict=True))


def test_a_run_without_weights_is_refused(tmp_path: Path, days: tuple[Path, Path]) -> None:
    catalogue = next_day(first_day())
    with pytest.raises(TrainingError, match=r"holds no weights\.index"):
        warm_start(Shop(catalogue), catalogue, days[1], tmp_path, days[0])


def test_a_run_that_read_less_of_the_time_is_refused(tmp_path: Path, days: tuple[Path, Path]) -> None:
    catalogue = next_day(first_day())
    catalogue.schema.clock.CopyFrom(Clock(features=["hour", "weekday"]))
    with pytest.raises(TrainingError, match=r"it read .*, hour, times; this one reads .*, hour, weekday, times. Train"):
        warm_start(Shop(catalogue), catalogue, days[1], tmp_path, days[0])


def test_other_features_are_refused(tmp_path: Path, days: tuple[Path, Path]) -> None:
    catalogue = checkerboard_catalogue(new_items=MOVED, content=False)
    with pytest.raises(TrainingError, match=r"it read category \(categorical\), .*; this one reads device"):
        warm_start(Shop(catalogue), catalogue, days[1], save(Shop(first_day()), tmp_path), days[0])


CONFIG = ItemEncoderConfig(dim=8, id_dropout=0.0, ngram_buckets=0)


class Shop(tf_keras.Model):
    """Predicts the next product from the one before."""

    def __init__(self, catalogue: Catalogue, embedding_devices: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.item_encoder = ItemEncoder(catalogue.schema, CONFIG, embedding_devices=embedding_devices)
        self.products = CatalogueEncoder(catalogue, self.item_encoder)
        self.turn = self.add_weight("turn", (8, 8), initializer="orthogonal")

    def compute_loss(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        table = self.products.table()
        logits = tf.matmul(tf.gather(table, inputs["rows"]) @ self.turn, table, transpose_b=True)
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(inputs["targets"], logits))


@pytest.mark.parametrize(("then", "now"), [((), ("CPU:0", "CPU:0")), (("CPU:0", "CPU:0", "CPU:0"), ())])
def test_tables_may_be_divided_otherwise_than_before(
    tmp_path: Path, days: tuple[Path, Path], then: tuple[str, ...], now: tuple[str, ...]
) -> None:
    catalogue = next_day(first_day())
    previous, current = Shop(first_day(), then), Shop(catalogue, now)
    warm_start(current, catalogue, days[1], save(previous, tmp_path), days[0])
    ids = list(first_day().item_ids)
    kept = list(range(FIRST + MOVED, catalogue.size - MOVED))
    places = [ids.index(catalogue.item_ids[row]) for row in kept]
    received, expected = current.products.table().numpy()[kept], previous.products.table().numpy()[places]
    np.testing.assert_array_equal(received, expected)


def trained(catalogue: Catalogue, model: Shop, day: int) -> np.ndarray:
    """Vectors of the catalogue after some steps on a day's pairs: products follow one of the next three in a circle."""
    rng = np.random.default_rng(day)
    numbers = np.array([int(name.rpartition("-")[2]) for name in catalogue.item_ids[FIRST:]])
    circle = FIRST + np.argsort(numbers, kind="stable")
    step = TrainStep(model, TrainingConfig(learning_rate=0.02, warmup_steps=0), STEPS)
    for _ in range(STEPS):
        places = rng.integers(0, len(circle), 64)
        follow = (places + rng.integers(1, 4, 64)) % len(circle)
        rows, targets = circle[places].astype(np.int32), circle[follow].astype(np.int32)
        step({"rows": tf.constant(rows), "targets": tf.constant(targets)})
    return model.products.table().numpy()


def test_a_warm_started_training_drifts_less_than_one_from_scratch(tmp_path: Path, days: tuple[Path, Path]) -> None:
    yesterday, today = first_day(), next_day(first_day())
    tf_keras.utils.set_random_seed(1)
    previous = Shop(yesterday)
    before = trained(yesterday, previous, day=1)
    save(previous, tmp_path)

    def drift(warm: bool) -> Drift:
        tf_keras.utils.set_random_seed(2)
        model = Shop(today)
        if warm:
            warm_start(model, today, days[1], tmp_path, days[0])
        after = trained(today, model, day=2)
        return embedding_drift(yesterday.item_ids[FIRST:], before[FIRST:], today.item_ids[FIRST:], after[FIRST:])

    warm, cold = drift(warm=True), drift(warm=False)
    assert warm.items == cold.items == 21
    assert warm.mean_cosine_distance < 0.8 * cold.mean_cosine_distance
    assert warm.neighbour_overlap > cold.neighbour_overlap
