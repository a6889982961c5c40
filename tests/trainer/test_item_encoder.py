"""The item encoder: id, behaviour and content of products as one vector each."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from protos.feature_schema_pb2 import Feature, FeatureSchema
from tests.trainer.worlds import checkerboard_catalogue
from trainer.catalogue_encoder import CatalogueEncoder
from trainer.config import ItemEncoderConfig
from trainer.data import Catalogue
from trainer.item_encoder import ItemEncoder

CATALOGUE = checkerboard_catalogue()
CONFIG = ItemEncoderConfig(dim=8, id_dropout=0.0, ngram_buckets=0)
SEED = tf.constant([3, 4])
# Black products that were in training, white ones, and the two that are new.
BLACK, WHITE, NEW = 3, 4, (24, 25)


def make_encoder(id_dropout: float = 0.0, fusion: str = "gate", catalogue: Catalogue = CATALOGUE) -> CatalogueEncoder:
    config = replace(CONFIG, id_dropout=id_dropout, fusion=fusion)
    return CatalogueEncoder(catalogue, ItemEncoder(catalogue.schema, config))


def with_vector(name: str, values: np.ndarray) -> Catalogue:
    """The checkerboard's products with a feature that is a vector, [V, length]."""
    schema = FeatureSchema()
    schema.CopyFrom(CATALOGUE.schema)
    schema.item.append(Feature(name=name, kind=Feature.VECTOR, length=values.shape[1]))
    return replace(CATALOGUE, schema=schema, features={**CATALOGUE.features, name: values.astype(np.float32)})


def test_padding_is_zero() -> None:
    assert np.all(make_encoder().table()[0].numpy() == 0)


def test_table_and_single_rows_agree() -> None:
    encoder = make_encoder()
    rows = tf.constant([5, 0, 25, 5])
    np.testing.assert_allclose(encoder.vectors(rows), tf.gather(encoder.table(), rows), atol=1e-6)


def test_table_of_a_large_catalogue_is_made_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = make_encoder()
    whole = encoder.table()
    asked: list[int] = []
    vectors = encoder.vectors

    def counted(rows: tf.Tensor) -> tf.Tensor:
        asked.append(len(rows))
        return vectors(rows)

    monkeypatch.setattr("trainer.catalogue_encoder._ROWS_AT_ONCE", 10)
    monkeypatch.setattr(encoder, "vectors", counted)
    np.testing.assert_allclose(encoder.table(), whole, atol=1e-6)
    # 26 rows in blocks of at most ten.
    assert asked == [9, 9, 8]


def test_gather_encodes_only_the_rows_asked_for_where_they_are_fewer_than_the_catalogue() -> None:
    encoder = make_encoder()
    few, many = tf.constant([[5, 0]]), tf.range(26)
    np.testing.assert_allclose(encoder.gather([few])[0], tf.gather(encoder.table(), few), atol=1e-6)
    np.testing.assert_allclose(encoder.gather([few, many])[1], encoder.table(), atol=1e-6)


FUSIONS = pytest.mark.parametrize("fusion", ["gate", "concatenation", "cross_attention"])


@FUSIONS
def test_products_of_the_same_content_differ_by_their_ids_alone(fusion: str) -> None:
    encoder = make_encoder(fusion=fusion)
    features = encoder.features(tf.constant([BLACK, BLACK + 2]))
    own = encoder.item_encoder.encode(features, tf.constant([BLACK, BLACK + 2]))
    hidden = encoder.item_encoder.encode(features, tf.constant([1, 1]))
    assert not np.allclose(own[0], own[1], atol=1e-4)
    np.testing.assert_allclose(hidden[0], hidden[1], atol=1e-6)


@FUSIONS
def test_a_product_of_which_nothing_is_known_is_the_unknown_product(fusion: str) -> None:
    encoder = make_encoder(fusion=fusion).item_encoder
    nothing = {"category": tf.zeros([1, 2], tf.int32), "brand": tf.zeros([1, 1], tf.int32)}
    nothing |= {"attributes": tf.zeros([1, 2], tf.int32), "price": tf.constant([[np.nan]])}
    nothing |= {"title": make_encoder().features(tf.constant([0]))["title"]}
    nothing = {name: nothing[name] for name, _ in encoder.item_features}
    np.testing.assert_allclose(encoder.encode(nothing, tf.constant([1]))[0], encoder.id_embedding[1], atol=1e-6)


@FUSIONS
def test_a_vector_that_is_not_there_has_no_say(fusion: str) -> None:
    pictures = np.full((CATALOGUE.size, 3), np.nan)
    pictures[BLACK] = [1.0, -2.0, 0.5]
    encoder = make_encoder(fusion=fusion, catalogue=with_vector("image", pictures))
    before = encoder.table().numpy()
    encoder.item_encoder.outputs_of["image"].bias.assign_add(tf.ones([8]))
    changed = ~np.isclose(before, encoder.table().numpy(), atol=1e-5).all(axis=1)
    np.testing.assert_array_equal(np.flatnonzero(changed), [BLACK])


def test_behaviour_is_hidden_where_the_id_is() -> None:
    behaviour = np.random.default_rng(1).normal(size=(CATALOGUE.size, 2))
    encoder = make_encoder(id_dropout=0.5, catalogue=with_vector("behaviour", behaviour))
    trained = encoder.table(training=True, seed=SEED).numpy()
    features = encoder.features(tf.range(CATALOGUE.size)) | {"behaviour": tf.fill(behaviour.shape, np.nan)}
    unknown = (CATALOGUE.id_rows > 0).astype(np.int32)
    content = encoder.item_encoder.encode(features, tf.constant(unknown)).numpy()
    as_shown = np.isclose(encoder.table().numpy(), trained, atol=1e-6).all(axis=1)
    as_content = np.isclose(content, trained, atol=1e-6).all(axis=1)
    assert 5 <= (as_content & ~as_shown).sum() <= 20
    assert (as_content | as_shown).all()


def test_content_places_products_without_an_id_of_their_own() -> None:
    vectors = make_encoder().vectors(tf.constant(NEW)).numpy()
    assert not np.allclose(vectors[0], vectors[1])


def test_a_missing_price_is_not_the_average_price() -> None:
    products = make_encoder()
    encoder, features = products.item_encoder, products.features(tf.constant([WHITE]))
    ids = tf.constant([WHITE])
    average = encoder.encode({**features, "price": np.array([[0.0]], np.float32)}, ids)
    missing = encoder.encode({**features, "price": np.array([[np.nan]], np.float32)}, ids)
    assert np.isfinite(missing).all()
    assert not np.allclose(average, missing)


def test_lists_of_ids_are_averaged_without_their_padding() -> None:
    products = make_encoder()
    encoder, features = products.item_encoder, products.features(tf.constant([WHITE]))
    once = encoder.encode({**features, "attributes": np.array([[3, 0]], np.int32)}, tf.constant([WHITE]))
    twice = encoder.encode({**features, "attributes": np.array([[3, 3]], np.int32)}, tf.constant([WHITE]))
    np.testing.assert_allclose(once, twice, atol=1e-6)


def test_hidden_ids_become_the_out_of_vocabulary_id() -> None:
    encoder = make_encoder(id_dropout=0.5)
    shown, trained = encoder.table().numpy(), encoder.table(training=True, seed=SEED).numpy()
    features = encoder.features(tf.range(CATALOGUE.size))
    unknown = encoder.item_encoder.encode(features, tf.constant((CATALOGUE.id_rows > 0).astype(np.int32))).numpy()
    hidden = ~np.isclose(shown, trained, atol=1e-6).all(axis=1)
    assert 5 <= hidden.sum() <= 20
    np.testing.assert_allclose(trained[hidden], unknown[hidden], atol=1e-6)


def test_a_step_hides_the_same_products_everywhere() -> None:
    encoder = make_encoder(id_dropout=0.5)
    rows = tf.constant([7, 8, 9, 7, 8, 9])
    vectors = encoder.vectors(rows, training=True, seed=SEED).numpy()
    np.testing.assert_allclose(vectors[:3], vectors[3:], atol=1e-6)
    table = encoder.table(training=True, seed=SEED)
    np.testing.assert_allclose(vectors, tf.gather(table, rows), atol=1e-6)


def test_without_content_an_item_is_its_id_and_nothing_is_hidden() -> None:
    catalogue = checkerboard_catalogue(content=False)
    encoder = make_encoder(0.9, catalogue=catalogue)
    expected = tf.gather(encoder.item_encoder.id_embedding, catalogue.id_rows).numpy()
    expected[0] = 0
    np.testing.assert_array_equal(encoder.table(training=True, seed=SEED), expected)


def test_class_means_leave_the_style_and_are_saved_with_the_model() -> None:
    # The colour decides the category; within it, pictures differ by style alone.
    styles = np.random.default_rng(1).normal(size=(CATALOGUE.size, 2))
    pictures = styles + 10.0 * (np.arange(CATALOGUE.size) % 2)[:, np.newaxis]
    catalogue = with_vector("image", pictures)
    config = replace(CONFIG, subtract_class_means=True)
    encoder = ItemEncoder(catalogue.schema, config)
    products = CatalogueEncoder(catalogue, encoder)
    read, there = encoder._read(products.features(tf.range(2, CATALOGUE.size)))["image"]
    assert there.numpy().all()
    assert read.shape[1] == 4
    np.testing.assert_allclose(read[:, :2], pictures[2:], rtol=1e-5)
    trained = pictures[2:24]
    for colour in (0, 1):
        own = read[colour::2, 2:].numpy()
        np.testing.assert_allclose(own, pictures[2 + colour :: 2] - trained[colour::2].mean(axis=0), atol=1e-5)
    assert any("image_means" in weight.name for weight in encoder.weights)
    assert not any("image_means" in weight.name for weight in encoder.trainable_weights)
