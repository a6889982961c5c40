"""Restricted questions of the client: filters and pages of lists, against a model whose answers anyone can see.

Shoes are sku-1 to sku-3, hats the rest; odd numbers are of acme, even ones of zest; sku-n costs 10 · n; sku-6 is
unavailable.
"""

import math
from collections.abc import Iterator
from typing import Any

import pytest

from serving.client import Filter, ListRequest, Query, Recommendations, RecommenderClient, Shopper
from serving.client_filters import Page
from serving.server import ModelServer
from tests.serving.grpc_proxy import proxy


@pytest.fixture(scope="module")
def client(server: ModelServer) -> Iterator[RecommenderClient]:
    with RecommenderClient(server.address, timeout=10) as running:
        yield running


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (Filter(), "52134"),
        (Filter(["hats"]), "54"),
        (Filter(["hats", "shoes"], ["zest"]), "24"),
        (Filter(brands=["acme"]), "513"),
        (Filter(price_min=20, price_max=40), "234"),
        (Filter(price_min=30.5), "54"),
        (Filter(price_max=5), ""),
        (Filter(allow=["sku-3", "sku-5", "sku-9"]), "53"),
        (Filter(["gloves"]), ""),
        (Filter(["hats"], include_unavailable=True), "546"),
        (Filter(["shoes"], ["acme"], 5, 25, ["sku-1", "sku-3"]), "1"),
    ],
    ids=str,
)
def test_only_what_passes_is_answered(client: RecommenderClient, given: Filter, expected: str) -> None:
    # The newest of the history has the highest score, then the one before; the rest in their own order.
    history, ids = ["sku-2", "sku-5"], tuple(f"sku-{number}" for number in expected)
    assert client.recommend(history, k=6, filter=given).item_ids == ids
    assert client.retrieve(history, filter=given).item_ids == ids


def test_without_a_filter_the_unavailable_is_answered_by_the_plain_signature(client: RecommenderClient) -> None:
    assert "sku-6" in client.recommend(["sku-2"], k=6).item_ids
    assert "sku-6" not in client.recommend(["sku-2"], k=6, filter=Filter()).item_ids


def test_one_filter_holds_for_all_shoppers(server: ModelServer, client: RecommenderClient) -> None:
    hats = Filter(["hats"], price_max=50)
    with proxy(server.address) as between, RecommenderClient(between.address) as asking:
        together = asking.recommend_many([Shopper(["sku-5"]), Shopper(["sku-4"], exclude=["sku-5"])], 2, filter=hats)
        assert len(between.asked) == 1
    assert [answer.item_ids for answer in together] == [("sku-5", "sku-4"), ("sku-4", "sku-5")]
    assert together[0] == client.recommend(["sku-5"], 2, filter=hats)


def test_lists_come_by_name_in_the_order_asked(client: RecommenderClient) -> None:
    lists = [
        ListRequest("For your feet", category="shoes"),
        ListRequest("Acme", brand="acme"),
        ListRequest("Up to 40", price_min=20, price_max=40),
    ]
    answer = client.recommend_lists(["sku-2", "sku-5"], lists)
    assert list(answer) == ["For your feet", "Acme", "Up to 40"]
    # Two shoes, sku-2 of the history first; of acme the newest and sku-3, as sku-1 is taken; sku-4 alone is left.
    assert answer["For your feet"] == Recommendations(("sku-2", "sku-1"), (4.0, 0.0), 1)
    assert answer["Acme"] == Recommendations(("sku-5", "sku-3"), (5.0, 0.0), 1)
    assert answer["Up to 40"] == Recommendations(("sku-4",), (0.0,), 1)


def test_the_order_of_lists_says_which_takes_a_product(client: RecommenderClient) -> None:
    acme, shoes = ListRequest("acme", brand="acme"), ListRequest("shoes", category="shoes")
    first = client.recommend_lists(["sku-1"], [acme, shoes], k=1)
    assert {name: answer.item_ids for name, answer in first.items()} == {"acme": ("sku-1",), "shoes": ("sku-2",)}
    second = client.recommend_lists(["sku-1"], [shoes, acme], k=1)
    assert {name: answer.item_ids for name, answer in second.items()} == {"shoes": ("sku-1",), "acme": ("sku-3",)}


def test_a_list_nothing_passes_for_is_empty(client: RecommenderClient) -> None:
    answer = client.recommend_lists([], [ListRequest("Gloves", "gloves"), ListRequest("Anything")])
    assert [len(found.item_ids) for found in answer.values()] == [0, 2]


def test_a_request_says_only_what_is_restricted(client: RecommenderClient) -> None:
    shopper = Shopper(["sku-1"])
    one = client.prepare("recommend_filtered", Query([shopper], restriction=Filter(price_max=9.5))).inputs
    assert set(one) == {"history_item_ids", "filter_price_max"}
    page = Page([ListRequest("a", brand="acme"), ListRequest("b", price_max=9.5)])
    inputs = client.prepare("recommend_lists", Query([shopper], restriction=page)).inputs
    assert set(inputs) == {"history_item_ids", "list_names", "list_brands", "list_price_max"}
    assert list(inputs["list_names"].string_val) == [b"a", b"b", b""]
    assert list(inputs["list_brands"].string_val) == [b"acme", b"", b""]
    assert list(inputs["list_price_max"].float_val) == [0.0, 9.5, 0.0]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"categories": "shoes"}, r"categories must be a sequence of names, received the string 'shoes'\."),
        ({"brands": ["acme", ""]}, r"brands must hold no empty name, received one at position 1\."),
        ({"allow": [""]}, r"allow must hold no empty product id, received one at position 0\."),
        ({"allow": []}, r"allow must hold at least one product id, or be None for no such list; received none\."),
        ({"price_min": 20, "price_max": 10}, r"price_min must not exceed price_max \(10\), received 20\."),
        ({"price_min": -1}, r"price_min must be a price from 0 to 1e\+38, received -1\."),
        ({"price_max": 0}, r"price_max must be above 0, or None for no limit; received 0\."),
        ({"price_max": math.nan}, r"price_max must be a price from 0 to 1e\+38, received nan\."),
        ({"price_max": math.inf}, r"price_max must be a price from 0 to 1e\+38, received inf\."),
    ],
    ids=str,
)
def test_a_filter_that_makes_no_sense_is_named(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Filter(**arguments)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            Filter(["a", "b", "c"]),
            "categories must hold at most 2 names, which the model was exported with; received 3",
        ),
        (Filter(brands=["a"] * 3), "brands must hold at most 2 names, which the model was exported with; received 3"),
        (
            Filter(allow=list("abcd")),
            "allow must hold at most 3 product ids, which the model was exported with; received 4",
        ),
    ],
    ids=str,
)
def test_more_than_the_model_has_room_for_is_named(client: RecommenderClient, given: Filter, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        client.recommend([], 1, filter=given)


@pytest.mark.parametrize(
    ("lists", "k", "sentence"),
    [
        ([], None, "lists must hold at least one ListRequest, received none"),
        ([ListRequest("a"), ListRequest("b"), ListRequest("a")], None, "different names, received 2 of the name 'a'"),
        (
            [ListRequest(name) for name in "abcd"],
            None,
            "lists must hold at most 3 lists, which the model was exported with; received 4",
        ),
        ([ListRequest("a")], 3, "k must be at most 2, which the model was exported with; received 3"),
        ([ListRequest("a")], 0, "k must be at least 1, received 0"),
    ],
    ids=["none", "duplicate", "too many", "too long", "too short"],
)
def test_a_page_that_cannot_be_is_named(
    client: RecommenderClient, lists: list[ListRequest], k: int | None, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        client.recommend_lists([], lists, k)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"name": ""}, r"name of a list must not be empty, received ListRequest\(name=''"),
        ({"name": "a", "category": ""}, "category of a list must not be empty"),
        ({"name": "a", "brand": ""}, "brand of a list must not be empty"),
        ({"name": "a", "price_min": 2, "price_max": 1}, r"price_min must not exceed price_max \(1\), received 2"),
    ],
    ids=str,
)
def test_a_list_that_makes_no_sense_is_named(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        ListRequest(**arguments)


def test_a_model_without_filters_is_named(server: ModelServer) -> None:
    with (
        RecommenderClient(server.address, model="scaler") as client,
        pytest.raises(ValueError, match="model scaler has no signature recommend_filtered; it has "),
    ):
        client.recommend([], filter=Filter(["shoes"]))
