"""Another shop's model hands over what its words mean, and nothing that was not asked for."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.transform.small_tables import config, event, write
from trainer.config import RetrievalConfig, TransferConfig
from trainer.data import load_catalogue
from trainer.errors import TrainingError
from trainer.retrieval import RetrievalModel
from trainer.transfer import Transfer, Transferred, match_known_rows, transfer
from trainer.warm_start import Previous, weights_by_path
from transform.beam_transform import run_transform
from transform.feature_schema import read_vocabulary
from transform.tables import FIRST

DAY = 86_400
SHOPS = {
    "there": [("Red pot", "Home > Pots", "Acme"), ("Blue lamp", "Home > Lamps", "Bolt")],
    "here": [("Blue pot, large", "Home > Pots", "Cord"), ("Green chair", "Home > Chairs", "Acme")],
}
# Words and category levels that both have.
SHARED = {"title": {"blue", "pot"}, "category": {"Home", "Home > Pots"}, "brand": {"Acme"}}
SIZES = RetrievalConfig(dim=8, history_length=4, heads=2)


@pytest.fixture(scope="module")
def shops(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The transforms of both; their products have the same ids, as it happens."""
    folders = {}
    for shop, products in SHOPS.items():
        folder = tmp_path_factory.mktemp(shop)
        rows = [
            {"item_id": str(number), "title": title, "category": category, "brand": brand}
            for number, (title, category, brand) in enumerate(products)
        ]
        write(write(folder, "events", [event("ann", str(day % 2), day * DAY) for day in range(11)]), "items", rows)
        run_transform(folder, folder / "transform", config())
        folders[shop] = folder / "transform"
    return folders


def model(directory: Path, seed: int, sizes: RetrievalConfig = SIZES) -> RetrievalModel:
    tf_keras.utils.set_random_seed(seed)
    made = RetrievalModel(load_catalogue(directory), sizes)
    for weight in made.weights:
        weight.assign_add(tf.random.normal(weight.shape))
    return made


def values(of: RetrievalModel) -> dict[str, np.ndarray]:
    return {path: weight.numpy() for path, weight in weights_by_path(of).items()}


class Outcome:
    """Weights there, here before and here after a transfer."""

    def __init__(self, shops: dict[str, Path], folder: Path, **chosen: bool) -> None:
        previous, current = model(shops["there"], 1), model(shops["here"], 2)
        tf.train.Checkpoint(model=previous).write(str(folder / "weights"))
        self.there, self.before = values(previous), values(current)
        source = Transfer(Previous(folder, shops["there"]), TransferConfig(run="there", **chosen))
        self.report: Transferred = transfer(current, load_catalogue(shops["here"]).schema, shops["here"], source)
        self.after = values(current)

    def changed(self) -> set[str]:
        return {path for path in self.after if (self.after[path] != self.before[path]).any()}

    def path(self, name: str) -> str:
        (found,) = (path for path in self.after if path.endswith(f"/{name}"))
        return found


def rows_by_word(shops: dict[str, Path], shop: str, feature: str) -> dict[str, int]:
    words = read_vocabulary(shops[shop] / "vocabularies" / f"{feature}.txt")
    return {word: row for row, word in enumerate(words)}


def check_rows(outcome: Outcome, shops: dict[str, Path], feature: str) -> None:
    """Shared strings have the row that they had there, others the one that they were drawn with."""
    path = outcome.path(f"{feature}_embedding")
    then, now = (rows_by_word(shops, shop, feature) for shop in ("there", "here"))
    for word, row in now.items():
        expected = outcome.there[path][then[word]] if word in then else outcome.before[path][row]
        np.testing.assert_array_equal(outcome.after[path][row], expected)
    assert {word for word, row in now.items() if word in then and row >= FIRST} == SHARED[feature]


def test_rows_of_known_strings_are_taken_and_others_stay() -> None:
    start, there = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([[10.0], [11.0], [12.0]])
    moved, matched = match_known_rows(start, there, ["", "?", "pot"], ["", "?", "lamp", "pot"])
    assert (moved[:, 0].tolist(), matched) == ([10.0, 11.0, 2.0, 12.0], 1)


def test_texts_are_taken_by_their_words_and_nothing_else(shops: dict[str, Path], tmp_path: Path) -> None:
    outcome = Outcome(shops, tmp_path)
    check_rows(outcome, shops, "title")
    ngrams = outcome.path("title_ngrams")
    np.testing.assert_array_equal(outcome.after[ngrams], outcome.there[ngrams])
    assert all("title" in path for path in outcome.changed())
    # Blue, pot, large, green, chair.
    assert outcome.report.rows == {"title_embedding": (2, 5)}
    # N-grams, and kernel and bias of two layers.
    assert outcome.report.weights == 5
    assert str(outcome.report) == "2 of 5 rows of title_embedding, 5 weights as they were"


def test_attributes_are_taken_by_their_names(shops: dict[str, Path], tmp_path: Path) -> None:
    outcome = Outcome(shops, tmp_path, text=False, attributes=True)
    check_rows(outcome, shops, "category")
    check_rows(outcome, shops, "brand")
    assert outcome.report.rows == {"category_embedding": (2, 3), "brand_embedding": (1, 2)}
    assert not any("title" in path for path in outcome.changed())


@pytest.mark.parametrize("everything", [True, False])
def test_ids_are_learned_anew(shops: dict[str, Path], tmp_path: Path, everything: bool) -> None:
    outcome = Outcome(shops, tmp_path, attributes=everything, network=everything)
    assert outcome.path("id_embedding") not in outcome.changed()


def test_the_network_is_taken_whole(shops: dict[str, Path], tmp_path: Path) -> None:
    outcome = Outcome(shops, tmp_path, text=False, network=True)
    changed = outcome.changed()
    assert len(changed) == outcome.report.weights > 5
    for path in changed:
        np.testing.assert_array_equal(outcome.after[path], outcome.there[path])
    assert not any(name in path for path in changed for name in ("title", "category", "brand", "id_embedding"))


def test_a_modality_that_one_of_the_shops_lacks_is_refused(shops: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"transfer.picture is on, but .* this one has none, there has none"):
        Outcome(shops, tmp_path, picture=True)


def test_words_of_another_dimension_are_refused(shops: dict[str, Path], tmp_path: Path) -> None:
    previous = model(shops["there"], 1, RetrievalConfig(dim=16, history_length=4, heads=2))
    tf.train.Checkpoint(model=previous).write(str(tmp_path / "weights"))
    current = model(shops["here"], 2)
    source = Transfer(Previous(tmp_path, shops["there"]), TransferConfig(run="there"))
    with pytest.raises(TrainingError, match=r"title_embedding is \[6, 16\] in .* and \[7, 8\] here"):
        transfer(current, load_catalogue(shops["here"]).schema, shops["here"], source)
