"""embed-content: the transform's catalogue with vectors, and nothing else changed; refreshes read pictures alike."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline.chain import STEPS
from pipeline.config import load_config
from pipeline.content import embed_content, vector_encoders
from pipeline.runner import Place
from protos.feature_schema_pb2 import Feature
from tests.trainer.pictures import BLUE, GREEN, RED, file_of, plain
from tests.transform.small_tables import START, event, examples, files_of, transformed, write
from trainer.config import ContentConfig
from trainer.content_encoders import (
    ContentError,
    load_encoders,
    load_image_backbone,
    load_sentence_backbone,
    read_descriptions,
)
from trainer.data import load_catalogue
from transform.catalogue_refresh import Refreshed, read_products, refresh_catalogue
from transform.clock import DAY
from transform.feature_schema import read_schema
from transform.item_examples import items_file

CONFIG = ContentConfig(image_height=16, image_width=16, image_dim=4, epochs=1, batch_size=4)
RED_FILE, BLUE_FILE, GREEN_FILE = file_of(plain(RED)), file_of(plain(BLUE), "JPEG"), file_of(plain(GREEN))
ITEMS: list[dict[str, Any]] = [
    {"item_id": "a", "title": "Red pot", "category": "Kitchen > Pots", "image": RED_FILE},
    {"item_id": "b", "title": "Blue lamp", "category": "Light", "image": BLUE_FILE},
    {"item_id": "c", "title": "Red lamp", "category": "Light", "image": b"no picture"},
    {"item_id": "d", "title": "", "category": "Light"},
    # Known only after the cut-off: it is encoded, and nothing is learned from it.
    {"item_id": "e", "title": "Green lamp", "category": "New", "image": GREEN_FILE, "created_at": START + 20 * DAY},
]
EVENTS = [event("ann", item, day * DAY) for day, item in enumerate("abcdabcdabc")]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return transformed(tmp_path_factory.mktemp("base"), ITEMS, EVENTS)


@pytest.fixture(scope="module")
def embedded(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("embedded")
    embed_content(base, output, CONFIG, None)
    return output


def test_products_get_vectors_of_their_pictures(embedded: Path) -> None:
    catalogue = load_catalogue(embedded)
    schema = catalogue.schema.item[-1]
    assert (schema.name, schema.kind, schema.length) == ("image", Feature.VECTOR, 4)
    vectors = dict(zip(catalogue.item_ids, catalogue.features["image"], strict=True))
    np.testing.assert_allclose([np.linalg.norm(vectors[item]) for item in "abe"], 1, rtol=1e-5)
    assert all(np.isnan(vectors[item]).all() for item in ("c", "d", ""))
    (encoder,) = load_encoders(embedded).values()
    np.testing.assert_array_equal(encoder.vectors([BLUE_FILE, b""])[0], vectors["b"])


def test_everything_else_is_that_of_the_transform(base: Path, embedded: Path) -> None:
    before, after = files_of(base), files_of(embedded)
    written = {items_file(0, 1), "feature_schema.pbtxt"}
    assert {name: content for name, content in before.items() if name not in written} == {
        name: content for name, content in after.items() if name not in written and not name.startswith("content/")
    }
    assert (embedded / "statistics.json").samefile(base / "statistics.json")
    plainly = examples(base, "items-*.tfrecord")
    assert [{k: v for k, v in one.items() if k != "image_vector"} for one in examples(embedded, "items-*")] == plainly
    assert list(read_schema(embedded).item)[:-1] == list(read_schema(base).item)


def test_nothing_is_learned_from_products_listed_later(base: Path, tmp_path: Path, embedded: Path) -> None:
    other = transformed(tmp_path, [*ITEMS[:4], ITEMS[4] | {"image": RED_FILE, "title": "Other"}], EVENTS)
    (tmp_path / "out").mkdir()
    embed_content(other, tmp_path / "out", CONFIG, None)
    first, second = (load_encoders(folder)["image"].vectors([GREEN_FILE]) for folder in (embedded, tmp_path / "out"))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("read", [False, True])
def test_without_pictures_the_catalogue_is_linked(
    base: Path, tmp_path: Path, read: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = base
    if read:
        source = transformed(tmp_path, [{k: v for k, v in item.items() if k != "image"} for item in ITEMS], EVENTS)
    (tmp_path / "out").mkdir()
    embed_content(source, tmp_path / "out", CONFIG, None, pictures=read)
    assert files_of(tmp_path / "out") == files_of(source)
    assert (tmp_path / "out" / items_file(0, 1)).samefile(source / items_file(0, 1))


def test_a_warm_start_keeps_the_encoder(base: Path, embedded: Path, tmp_path: Path) -> None:
    embed_content(base, tmp_path, replace(CONFIG, seed=9), embedded)
    np.testing.assert_array_equal(
        load_catalogue(tmp_path).features["image"], load_catalogue(embedded).features["image"]
    )
    assert read_descriptions(tmp_path) == read_descriptions(embedded)


def test_a_killed_step_goes_on_with_the_encoder_it_had(
    base: Path, embedded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException):
        pass

    def kill(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr("transform.catalogue_vectors.write_schema", kill)
        with pytest.raises(KilledError):
            embed_content(base, tmp_path, CONFIG, None)
    monkeypatch.setattr("pipeline.content.train_content", kill)
    embed_content(base, tmp_path, CONFIG, None)
    np.testing.assert_array_equal(
        load_catalogue(tmp_path).features["image"], load_catalogue(embedded).features["image"]
    )


def refreshed(base: Path, folder: Path, *rows: dict[str, Any]) -> Refreshed:
    products, _ = read_products(write(folder / "new", "items", list(rows)), folder / "dead_letter", 0.01)
    (folder / "output").mkdir()
    return refresh_catalogue(base, products, folder / "output", START, vector_encoders(load_encoders(base)))


def test_a_refresh_reads_new_pictures_with_the_same_encoder(embedded: Path, tmp_path: Path) -> None:
    rows = [{"item_id": "a", "image": RED_FILE}, {"item_id": "b", "image": b"broken"}, {"item_id": "d", "image": None}]
    outcome = refreshed(embedded, tmp_path, *rows, {"item_id": "z", "image": BLUE_FILE})
    assert (outcome.new, outcome.changed, outcome.unchanged) == (1, 1, 2)
    before, after = (load_catalogue(folder) for folder in (embedded, tmp_path / "output"))
    vectors = dict(zip(after.item_ids, after.features["image"], strict=True))
    old = dict(zip(before.item_ids, before.features["image"], strict=True))
    np.testing.assert_array_equal(vectors["z"], old["b"])
    np.testing.assert_array_equal(vectors["a"], old["a"])
    assert np.isnan(vectors["b"]).all()
    # The encoders travel with the catalogue, for the export and for the next refresh.
    np.testing.assert_array_equal(load_encoders(tmp_path / "output")["image"].vectors([BLUE_FILE])[0], vectors["z"])


def test_a_refresh_without_pictures_keeps_the_vectors(embedded: Path, tmp_path: Path) -> None:
    outcome = refreshed(embedded, tmp_path, {"item_id": "a", "title": "Crimson pot"})
    assert outcome.changed == 1
    after, before = (load_catalogue(folder).features["image"] for folder in (tmp_path / "output", embedded))
    np.testing.assert_array_equal(after, before)


class Backbone(tf.Module):
    """A pre-trained model: the mean colour, and the length of a text, as vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = tf.Variable(2.0)

    @tf.function(input_signature=[tf.TensorSpec([None, 16, 16, 3], tf.float32, "pixels")])
    def colours(self, pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"colour": self.scale * tf.reduce_mean(pixels, axis=[1, 2])}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
    def sentences(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        length = tf.cast(tf.strings.length(text), tf.float32)
        return {"vector": self.scale * tf.stack([length, tf.ones_like(length)], axis=1)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string), tf.TensorSpec([None], tf.string)])
    def pairs(self, one: tf.Tensor, other: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"same": tf.cast(one == other, tf.float32)}


def saved(folder: Path, signature: str) -> str:
    module = Backbone()
    tf.saved_model.save(module, str(folder), signatures={"serving_default": getattr(module, signature)})
    return str(folder)


def test_pretrained_encoders_take_the_place_of_a_training(base: Path, tmp_path: Path) -> None:
    colours, sentences = saved(tmp_path / "colours", "colours"), saved(tmp_path / "sentences", "sentences")
    (tmp_path / "out").mkdir()
    embed_content(base, tmp_path / "out", replace(CONFIG, image_encoder=colours, text_encoder=sentences), None)
    catalogue = load_catalogue(tmp_path / "out")
    rows = {item: row for row, item in enumerate(catalogue.item_ids)}
    assert [(f.name, f.length) for f in catalogue.schema.item][-2:] == [("image", 3), ("sentence", 2)]
    red = np.array(RED) / np.linalg.norm(RED)
    # A sheet of 48 × 64 on a square of 16 is red on 12 of its 16 columns and white elsewhere.
    expected = (12 * red * np.linalg.norm(RED) + 4 * 255) / 16
    np.testing.assert_allclose(catalogue.features["image"][rows["a"]], expected / np.linalg.norm(expected), atol=1e-3)
    np.testing.assert_allclose(catalogue.features["sentence"][rows["a"]], np.array([7, 1]) / 50**0.5, atol=1e-6)
    assert np.isnan(catalogue.features["sentence"][rows["d"]]).all()


def test_a_pretrained_encoder_that_does_not_fit_is_named(tmp_path: Path) -> None:
    with pytest.raises(ContentError, match=r"content.image_encoder: must be a SavedModel folder .* received '/none'"):
        load_image_backbone("/none", 16, 16)
    with pytest.raises(ContentError, match=r"content.image_encoder: no such file: '/none.keras'"):
        load_image_backbone("/none.keras", 16, 16)
    sentences, pairs = saved(tmp_path / "sentences", "sentences"), saved(tmp_path / "pairs", "pairs")
    with pytest.raises(ContentError, match=r"sentences' must map float32 \[B, 16, 16, 3\] to \[B, d\]; it says"):
        load_image_backbone(sentences, 16, 16)
    with pytest.raises(
        ContentError, match=r"content.text_encoder: the signature .* must have one input, received one, "
    ):
        load_sentence_backbone(pairs)


def test_a_keras_file_serves_as_encoder(tmp_path: Path) -> None:
    import tf_keras

    layers = [tf_keras.layers.GlobalAveragePooling2D(input_shape=(16, 16, 3)), tf_keras.layers.Dense(5)]
    tf_keras.Sequential(layers).save(tmp_path / "backbone.keras")
    backbone, _ = load_image_backbone(str(tmp_path / "backbone.keras"), 16, 16)
    assert backbone(tf.zeros([3, 16, 16, 3])).shape == (3, 5)


@pytest.mark.parametrize(
    ("settings", "earlier"),
    [
        (["transfer.run=old", "transfer.picture=true"], Path("old/steps/embed-content")),
        (["transfer.run=old", "transfer.picture=false"], None),
        (["warm_start=old"], Path("old/steps/embed-content")),
    ],
)
def test_weights_that_read_pictures_travel_with_their_encoder(
    settings: list[str], earlier: Path | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr("pipeline.content.embed_content", lambda *arguments: asked.append(arguments[3]))
    (step,) = (step for step in STEPS if step.name == "embed-content")
    step.run(load_config(None, settings), Place(tmp_path, tmp_path, tmp_path))
    assert asked == [earlier]
