"""Features of the schema as they are configured: caps of vocabularies, buckets of what lies outside of them."""

import hashlib
from pathlib import Path
from typing import Any

import farmhash
import pytest

from protos.feature_schema_pb2 import Feature
from tests.transform.small_tables import by_user, event, examples, files_of, transformed
from tests.transform.test_beam_transform import EVENTS, ITEMS
from transform.checks import DataError
from transform.clock import DAY
from transform.config import TransformConfig
from transform.content import check_features
from transform.feature_schema import read_schema, read_vocabulary

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


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"max_values": {"brnad": 5}}, r"transform.max_values: .*, received 'brnad'. Did you mean 'brand'\?"),
        ({"oov_buckets": {"price": 5}}, r"transform.oov_buckets: features with a vocabulary are category, .* 'price'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        check_features(TransformConfig(**settings))
