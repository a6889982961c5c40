"""The item encoder: id and content, fused by a gate."""

import numpy as np
import tensorflow as tf

from tests.trainer.worlds import checkerboard_catalogue
from trainer.catalogue_encoder import CatalogueEncoder
from trainer.item_encoder import ItemEncoder

CATALOGUE = checkerboard_catalogue()
SEED = tf.constant([3, 4])
# Black products that were in training, white ones, and the two that are new.
BLACK, WHITE, NEW = 3, 4, (24, 25)


def make_encoder(id_dropout: float = 0.0) -> CatalogueEncoder:
    return CatalogueEncoder(CATALOGUE, ItemEncoder(CATALOGUE.schema, 8, id_dropout, ngram_buckets=0))


def test_padding_is_zero() -> None:
    assert np.all(make_encoder().table()[0].numpy() == 0)


def test_table_and_single_rows_agree() -> None:
    encoder = make_encoder()
    rows = tf.constant([5, 0, 25, 5])
    np.testing.assert_allclose(encoder.vectors(rows), tf.gather(encoder.table(), rows), atol=1e-6)


def test_gather_encodes_only_the_rows_asked_for_where_they_are_fewer_than_the_catalogue() -> None:
    encoder = make_encoder()
    few, many = tf.constant([[5, 0]]), tf.range(26)
    np.testing.assert_allclose(encoder.gather([few])[0], tf.gather(encoder.table(), few), atol=1e-6)
    np.testing.assert_allclose(encoder.gather([few, many])[1], encoder.table(), atol=1e-6)


def test_gate_mixes_id_and_content() -> None:
    encoder = make_encoder()
    layer = encoder.item_encoder
    for gate, expected in ((100.0, layer.id_embedding[BLACK]), (-100.0, None)):
        layer.gate.kernel.assign(tf.zeros_like(layer.gate.kernel))
        layer.gate.bias.assign(tf.fill([8], gate))
        vectors = encoder.vectors(tf.constant([BLACK, BLACK + 2]))
        if expected is not None:
            np.testing.assert_allclose(vectors[0], expected, atol=1e-6)
        else:
            # Same content, other id: a closed gate lets only content through.
            np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)


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
    encoder = CatalogueEncoder(catalogue, ItemEncoder(catalogue.schema, 8, id_dropout=0.9, ngram_buckets=0))
    expected = tf.gather(encoder.item_encoder.id_embedding, catalogue.id_rows).numpy()
    expected[0] = 0
    np.testing.assert_array_equal(encoder.table(training=True, seed=SEED), expected)
