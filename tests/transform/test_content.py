"""Features of the schema as they are configured: caps of vocabularies, buckets of what lies outside of them."""

import hashlib
from pathlib import Path
from typing import Any

import farmhash
import numpy as np
import pytest

from protos.feature_schema_pb2 import Feature, FeatureSchema
from tests.transform.small_tables import START, by_user, event, examples, files_of, transformed
from tests.transform.test_beam_transform import EVENTS, ITEMS
from transform.checks import DataError
from transform.clock import DAY
from transform.config import TransformConfig
from transform.content import check_features, clock
from transform.feature_schema import clock_features, read_schema, read_vocabulary
from transform.vocabularies import price_boundaries

# Brands: Acme 3 times, Bolt twice, Crown once. Regions: north 3 times, south twice, west once.
SHOP = [
    {"item_id": f"p{number}", "brand": brand, "title": "Red pot"}
    for number, brand in enumerate(["Acme", "Bolt", "Acme", "Crown", "Acme", "Bolt"])
]
VISITS = [
    event("ann", f"p{number}", 3_600 * number, region=region)
    for number, region in enumerate(["north", "south", "north", "west", "north", "south"])
]
VISITS += [event("ann", "p0", 8 * DAY, region="east"), event("ann", "p1", 9 * DAY, region="north")]


def made(folder: Path, **settings: Any) -> tuple[dict[str, Feature], Path]:
    """Features of the schema by name, and the transform's output."""
    output = transformed(folder, SHOP, VISITS, **settings)
    schema = read_schema(output)
    return {feature.name: feature for feature in (*schema.item, *schema.context)}, output


def products(output: Path) -> dict[str, dict[str, list[Any]]]:
    return {example["item_id"][0].decode(): example for example in examples(output, "items-*.tfrecord")}


def test_as_shipped_every_byte_is_what_it_was_before_there_was_a_choice(tmp_path: Path) -> None:
    """The digest is of the output of the version without caps, buckets and crosses."""
    output = transformed(tmp_path, ITEMS, EVENTS)
    digest = hashlib.sha256()
    for name, content in files_of(output).items():
        if name.endswith((".tfrecord", ".txt", ".pbtxt")):
            digest.update(name.encode())
            digest.update(content)
    assert digest.hexdigest() == "6d13119ef40c7b975eff0f300ad93ff152ff7774cef98c73884a68d5459fc93d"


def test_only_the_most_frequent_values_have_ids_of_their_own(tmp_path: Path) -> None:
    features, output = made(tmp_path, max_values={"brand": 2, "region": 1, "title": 1})
    assert read_vocabulary(output / "vocabularies" / "brand.txt")[2:] == ["Acme", "Bolt"]
    assert read_vocabulary(output / "vocabularies" / "region.txt")[2:] == ["north"]
    assert read_vocabulary(output / "vocabularies" / "title.txt")[2:] == ["pot"]
    assert (features["brand"].vocabulary_size, features["region"].vocabulary_size) == (4, 3)
    assert [products(output)[f"p{number}"]["brand_ids"] for number in range(4)] == [[2], [3], [2], [1]]
    assert by_user(output)["ann"]["regions"] == [2, 1, 2, 1, 2, 1, 1, 2]


def test_values_beyond_the_cap_share_buckets(tmp_path: Path) -> None:
    features, output = made(tmp_path, max_values={"brand": 1, "region": 1}, oov_buckets={"brand": 8, "region": 5})

    def bucket(value: str, count: int) -> int:
        return 3 + farmhash.fingerprint64(value) % count

    assert (features["brand"].vocabulary_size, features["brand"].oov_buckets) == (3, 8)
    found = [products(output)[f"p{number}"]["brand_ids"] for number in range(4)]
    assert found == [[2], [bucket("Bolt", 8)], [2], [bucket("Crown", 8)]]
    south, west, east = (bucket(region, 5) for region in ("south", "west", "east"))
    assert by_user(output)["ann"]["regions"] == [2, south, 2, west, 2, south, east, 2]


# Prices 1 to 8, the last two of products that nobody knew before validation; p8 has none.
PRICED = [
    {
        "item_id": f"p{number}",
        "price": float(number + 1) if number < 8 else None,
        "brand": ["Acme", "Bolt", ""][number % 3],
        "category": "Kitchen > Pots" if number < 4 else "Light",
        "created_at": START - 1 if number not in (6, 7) else START + 8 * DAY,
    }
    for number in range(9)
]


def priced(folder: Path, **settings: Any) -> tuple[dict[str, Feature], Path]:
    output = transformed(folder, PRICED, VISITS, **settings)
    return {feature.name: feature for feature in read_schema(output).item}, output


def test_buckets_are_quantiles_of_the_prices_known_before_the_cut(tmp_path: Path) -> None:
    features, output = priced(tmp_path, price_buckets=3)
    # Of 1 to 6, two in each; what came later and is dearer belongs to the last.
    assert features["price_bucket"].boundaries == [3, 5]
    assert read_vocabulary(output / "vocabularies" / "price_bucket.txt")[2:] == ["0", "1", "2"]
    found = [products(output)[f"p{number}"]["price_bucket_ids"] for number in range(9)]
    assert found == [[2], [2], [3], [3], [4], [4], [4], [4], []]


def test_equal_quantiles_are_one_boundary_and_no_bucket_is_empty() -> None:
    prices = np.array([9, 1, 1, 1, 1, 5, 5, 7], np.float32)
    assert price_boundaries(prices, 4) == [5, 7]
    assert price_boundaries(prices, 8) == [5, 7, 9]
    assert price_boundaries(np.full(5, 3, np.float32), 4) == []


def test_prices_that_are_all_the_same_make_no_bucket(tmp_path: Path) -> None:
    same = [{"item_id": f"p{number}", "price": 2.0, "brand": "Acme"} for number in range(6)]
    output = transformed(tmp_path, same, VISITS, price_buckets=4, crosses=[["brand", "price_bucket"]])
    assert [feature.name for feature in read_schema(output).item] == ["brand", "price"]


def test_a_cross_is_one_more_feature_with_a_vocabulary_by_frequency(tmp_path: Path) -> None:
    features, output = priced(
        tmp_path,
        price_buckets=2,
        crosses=[["brand", "category"], ["category", "price_bucket"]],
        max_values={"brand_x_category": 2},
        oov_buckets={"brand_x_category": 4},
    )
    assert list(features) == [
        "category",
        "brand",
        "price",
        "price_bucket",
        "brand_x_category",
        "category_x_price_bucket",
    ]
    words = read_vocabulary(output / "vocabularies" / "brand_x_category.txt")[2:]
    assert words == ["Acme\x1fKitchen > Pots", "Bolt\x1fKitchen > Pots"]
    found = products(output)
    # Of Acme are p0, p3 and p6, of Bolt p1, p4 and p7; the others have no brand. Two pots are of Acme, one of Bolt.
    bolt = 4 + farmhash.fingerprint64("Bolt\x1fLight") % 4
    assert [found[f"p{number}"]["brand_x_category_ids"] for number in (0, 3, 4, 7, 2, 8)] == [
        [2],
        [2],
        [bolt],
        [bolt],
        [],
        [],
    ]
    # Known prices 1 to 6: the upper half begins at 4. Pots are three times below and once above, lights twice above.
    levels = read_vocabulary(output / "vocabularies" / "category_x_price_bucket.txt")[2:]
    assert levels == ["Kitchen > Pots\x1f0", "Light\x1f1", "Kitchen > Pots\x1f1"]
    assert [found[f"p{number}"]["category_x_price_bucket_ids"] for number in (0, 3, 5, 7, 8)] == [
        [2],
        [4],
        [3],
        [3],
        [],
    ]


def test_a_cross_of_what_the_shop_does_not_have_is_left_out(tmp_path: Path) -> None:
    output = transformed(tmp_path, SHOP, VISITS, crosses=[["brand", "category"]])
    assert [feature.name for feature in read_schema(output).item] == ["brand", "title"]


def test_requests_have_the_features_that_are_configured(tmp_path: Path) -> None:
    visits = [visit | {"device": "mobile"} for visit in VISITS]
    output = transformed(tmp_path, SHOP, visits, context_features=["weekday", "device"])
    schema = read_schema(output)
    assert [feature.name for feature in schema.context] == ["device"]
    assert clock_features(schema) == ("weekday",)
    assert (by_user(output)["ann"]["devices"][:2], by_user(output)["ann"]["regions"]) == ([2, 2], [])
    assert not (output / "vocabularies" / "region.txt").exists()


@pytest.mark.parametrize("chosen", [(), ("hour",), ("hour", "weekday"), ("weekday", "hour")])
def test_what_is_read_of_the_time_stands_in_the_schema(chosen: tuple[str, ...]) -> None:
    schema = FeatureSchema(has_timestamps=True, clock=clock(TransformConfig(context_features=chosen)))
    assert clock_features(schema) == tuple(sorted(chosen))
    schema.has_timestamps = False
    assert clock_features(schema) == ()


def test_a_schema_that_says_nothing_of_the_time_means_the_hour() -> None:
    assert not FeatureSchema(clock=clock(TransformConfig())).HasField("clock")
    assert clock_features(FeatureSchema(has_timestamps=True)) == ("hour",)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"max_values": {"brnad": 5}}, r"transform.max_values: .*, received 'brnad'. Did you mean 'brand'\?"),
        ({"oov_buckets": {"price": 5}}, r"transform.oov_buckets: features with a vocabulary are category, .* 'price'"),
        ({"price_buckets": 1}, r"transform.price_buckets: must be 0 \(none\) or at least 2, received 1"),
        (
            {"price_buckets": 4, "content_features": ("title",)},
            r"price_buckets: received 4, but transform.content_features leaves the price out. Add it there",
        ),
        ({"crosses": [["brand"]]}, r"crosses: a cross is made of two different features or more, received \['brand'\]"),
        ({"crosses": [["brand", "brand"]]}, r"two different features or more, received \['brand', 'brand'\]"),
        ({"crosses": [[]]}, r"two different features or more, received \[\]"),
        ({"crosses": [["brand", "categry"]]}, r"crosses: .* received 'categry' .* Did you mean 'category'\?"),
        ({"crosses": [["brand", "price"]]}, r"'price' in .* Set transform.price_buckets and cross price_bucket"),
        ({"crosses": [["brand", "price_bucket"]]}, r"needs prices in buckets. Set transform.price_buckets"),
        (
            {"crosses": [["brand", "category"]], "content_features": ("brand",)},
            r"needs 'category', which transform.content_features leaves out",
        ),
        (
            {"crosses": [["brand", "category"], ["category", "brand"]]},
            r"\['category', 'brand'\] is there twice. Leave one of them out",
        ),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        check_features(TransformConfig(**settings))
