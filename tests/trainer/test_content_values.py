"""Values of products' features in a graph are those of the transform: buckets of prices, and crosses."""

import math
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from protos.feature_schema_pb2 import Feature
from trainer.item_encoder_module import price_buckets, values_of
from transform import vocabularies
from transform.vocabularies import feature_values

# As float32 holds them, the second is no decimal number.
BOUNDARIES = [1.0, 9.99, 1e6]
PRICES = st.one_of(st.none(), st.sampled_from(BOUNDARIES), st.floats(2**-20, 1e9, width=32))
# As an importer or a client may write them; the separator of levels and the empty string among them.
STRINGS = st.lists(st.sampled_from(["acme", "Ä", " > ", "鍋", " "]), max_size=3).map("".join)
OPTIONAL = st.one_of(st.none(), STRINGS)
PRODUCTS = st.lists(st.tuples(OPTIONAL, OPTIONAL, PRICES), min_size=1, max_size=12)
FEATURES = [
    Feature(name="_x_".join(parts), kind=Feature.CATEGORICAL, crossed=parts, boundaries=BOUNDARIES)
    for parts in (["brand", "category"], ["category", "price_bucket"], ["price_bucket", "category", "brand"])
]
FEATURES.append(Feature(name="price_bucket", kind=Feature.CATEGORICAL, boundaries=BOUNDARIES))


def in_graph(feature: Feature) -> Callable[..., tf.Tensor]:
    """`values_of` as a server runs it."""
    strings, floats = tf.TensorSpec([None], tf.string), tf.TensorSpec([None], tf.float32)

    @tf.function(input_signature=[strings, strings, floats], autograph=False)
    def graph(brand: tf.Tensor, category: tf.Tensor, price: tf.Tensor) -> tf.Tensor:
        return values_of(feature, {"brand": brand, "category": category, "price": price})

    return graph


GRAPHS = [(feature, in_graph(feature)) for feature in FEATURES]


def test_a_price_at_a_boundary_begins_the_bucket_and_one_just_below_does_not() -> None:
    at = np.array(BOUNDARIES, np.float32)
    prices = np.concatenate([np.nextafter(at, np.float32(0)), at, np.nextafter(at, np.float32(np.inf))])
    expected = ["0", "1", "2", "1", "2", "3", "1", "2", "3"]
    assert vocabularies.price_buckets(pa.array(prices), BOUNDARIES).to_pylist() == expected
    assert [value.decode() for value in price_buckets(tf.constant(prices), BOUNDARIES).numpy()] == expected


def test_what_is_no_price_has_no_bucket() -> None:
    odd = tf.constant([math.nan, math.inf, -1.0, 0.0])
    assert price_buckets(odd, BOUNDARIES).numpy().tolist() == [b""] * 4
    assert vocabularies.price_buckets(pa.array([None], pa.float32()), BOUNDARIES).to_pylist() == [None]


@settings(max_examples=100)
@given(PRODUCTS)
def test_graph_makes_the_values_of_the_transform(products: list[tuple[str | None, str | None, float | None]]) -> None:
    brands, categories, prices = zip(*products, strict=True)
    items = pa.table({"brand": pa.array(brands, pa.string()), "category": pa.array(categories, pa.string())})
    items = items.append_column("price", pa.array(prices, pa.float32()))
    raw = {name: tf.constant([value or "" for value in items[name].to_pylist()]) for name in ("brand", "category")}
    raw["price"] = tf.constant([math.nan if price is None else price for price in prices])
    for feature, graph in GRAPHS:
        made = [[value.decode() for value in values if value] for values in graph(**raw).numpy()]
        assert made == feature_values(feature, items).to_pylist()


def test_a_cross_is_absent_where_one_of_its_values_is() -> None:
    items = pa.table({"brand": ["acme", "", None, "acme"], "category": ["A > B", "A", "A", None]})
    feature = Feature(name="brand_x_category", kind=Feature.CATEGORICAL, crossed=["brand", "category"])
    assert feature_values(feature, items).to_pylist() == [["acme\x1fA > B"], [], [], []]
