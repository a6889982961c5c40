"""Shoppers that the caller holds, and requests that say how scores are mixed and what targets are worth."""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from protos.predict_pb2 import PredictRequest
from serving.client import Filter, HeldShopper, ListRequest, Query, RecommenderClient, Shopper
from serving.model_config import model_configs_for
from serving.server import ModelServer
from tests.serving.grpc_proxy import proxy
from tests.serving.models import EarlierRecommender, publish
from tests.serving.rest_bridge import bridge

HISTORY = ["sku-1", "sku-1", "sku-3"]
# Twice sku-1, once sku-3; three products of two kinds.
HELD = HeldShopper((2.0, 0.0, 1.0, 0.0, 0.0, 0.0), (3.0, 2.0), version=1)
# 100 · (1·2 + 3·1) of the embedding, 1000 · 3 + 2000 · 2 of the state.
OF_EMBEDDING, OF_STATE = 500.0, 7_000.0
ASKED: dict[str, Callable[..., Any]] = {
    "recommend": lambda client, **told: client.recommend(HISTORY, k=1, **told),
    "recommend within": lambda client, **told: client.recommend(HISTORY, k=1, filter=Filter(["shoes"]), **told),
    "recommend_many": lambda client, **told: client.recommend_many([Shopper(HISTORY, **told)], k=1)[0],
    "recommend_lists": lambda client, **told: client.recommend_lists(HISTORY, [ListRequest("Any")], k=1, **told)["Any"],
    "rank": lambda client, **told: client.rank(HISTORY, ["sku-3"], **told),
    "retrieve": lambda client, **told: client.retrieve(HISTORY, **told),
}
TOLD = [name for name in ASKED if name != "retrieve"]


@pytest.fixture(scope="module")
def client(server: ModelServer) -> Iterator[RecommenderClient]:
    with RecommenderClient(server.address, timeout=10) as asking:
        yield asking


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RecommenderClient]:
    """Asks a model that knows none of these inputs."""
    folder = tmp_path_factory.mktemp("earlier")
    publish(EarlierRecommender().save(folder / "saved"), folder / "export" / "recommender", 1)
    with ModelServer(model_configs_for(folder / "export"), 0) as server:
        server.wait_until_available(60)
        with RecommenderClient(server.address) as asking:
            yield asking


def inputs(request: bytes) -> set[str]:
    return set(PredictRequest.FromString(request).inputs)


def test_shopper_is_held_with_the_version_that_made_it(client: RecommenderClient) -> None:
    assert client.hold(HISTORY) == HELD


@pytest.mark.parametrize("question", ASKED)
def test_held_shopper_arrives_whole(client: RecommenderClient, question: str) -> None:
    # sku-3 is the newest, in slot 5.
    plain, held = ASKED[question](client), ASKED[question](client, held=client.hold(HISTORY))
    assert (plain.item_ids[0], plain.scores[0]) == ("sku-3", 5.0)
    assert (held.item_ids[0], held.scores[0]) == ("sku-3", 5.0 + OF_EMBEDDING + OF_STATE)


@pytest.mark.parametrize("question", TOLD)
def test_blend_and_weights_arrive(client: RecommenderClient, question: str) -> None:
    assert ASKED[question](client, blend=-0.5).scores[0] == 4.5
    # 10 · 1 + 20 · 2.5.
    assert ASKED[question](client, target_weights=[1, 2.5]).scores[0] == 65.0
    assert ASKED[question](client, blend=1, target_weights=(0, 1)).scores[0] == 26.0


def test_each_shopper_of_a_request_has_values_of_its_own(client: RecommenderClient) -> None:
    shoppers = [Shopper(HISTORY, held=HELD), Shopper(HISTORY, blend=0.25), Shopper(HISTORY, target_weights=[0, 2])]
    scores = [answer.scores[0] for answer in client.recommend_many(shoppers, k=1)]
    assert scores == [5.0 + OF_EMBEDDING + OF_STATE, 5.25, 45.0]


def test_shopper_that_another_version_made_is_encoded_anew(server: ModelServer) -> None:
    other = HeldShopper(HELD.embedding, HELD.state, version=2)
    with proxy(server.address) as between, RecommenderClient(between.address) as asking:
        assert asking.recommend(HISTORY, k=1, held=other) == asking.recommend(HISTORY, k=1)
        mixed = asking.recommend_many([Shopper(HISTORY, held=other), Shopper(HISTORY, held=HELD)], k=1)
        assert len(between.asked) == 3
    assert inputs(between.asked[0]) == {"history_item_ids"}
    assert [answer.scores[0] for answer in mixed] == [5.0, 5.0 + OF_EMBEDDING + OF_STATE]


@pytest.fixture
def swapping(recommender: Path, tmp_path: Path) -> Iterator[tuple[ModelServer, Callable[[], None]]]:
    """A server of version 1, and what swaps in version 2, whose shapes are the same."""
    publish(recommender, tmp_path / "recommender", 1)
    with ModelServer(model_configs_for(tmp_path), 0) as server, RecommenderClient(server.address) as waiting:
        server.wait_until_available(60)

        def swap() -> None:
            publish(recommender, tmp_path / "recommender", 2)
            end = time.monotonic() + 30
            while waiting.wait_until_ready() == 1:
                assert time.monotonic() < end
                time.sleep(0.02)

        yield server, swap


def test_answer_of_a_version_swapped_in_meanwhile_is_asked_again(
    swapping: tuple[ModelServer, Callable[[], None]],
) -> None:
    server, swap = swapping
    with proxy(server.address) as between, RecommenderClient(between.address, 10) as asking:
        held = asking.hold(HISTORY)
        assert asking.recommend(HISTORY, k=1, held=held).scores == (5.0 + OF_EMBEDDING + OF_STATE,)
        swap()
        between.asked.clear()
        answer = asking.recommend(HISTORY, k=1, held=held)
        assert (answer.version, answer.scores) == (2, (5.0,))
        # The client could not know, and version 2 took what version 1 had made.
        assert [inputs(request) for request in between.asked] == [
            {"history_item_ids", "user_embedding", "user_state"},
            {"history_item_ids"},
        ]
        # From now on it knows.
        assert asking.recommend(HISTORY, k=1, held=held) == answer
        assert len(between.asked) == 3
        newer = asking.hold(HISTORY)
        assert newer == HeldShopper(HELD.embedding, HELD.state, version=2)
        assert asking.recommend(HISTORY, k=1, held=newer).scores == (5.0 + OF_EMBEDDING + OF_STATE,)


def test_swap_is_met_over_rest(swapping: tuple[ModelServer, Callable[[], None]]) -> None:
    server, swap = swapping
    with bridge(server.address) as rest, RecommenderClient(rest_target=rest.address, timeout=10) as asking:
        held = asking.hold(HISTORY)
        assert asking.recommend(HISTORY, k=1, held=held).scores == (5.0 + OF_EMBEDDING + OF_STATE,)
        swap()
        end = time.monotonic() + 30
        # Version 1, which is asked for by its number, answers until it is unloaded.
        while (answer := asking.recommend(HISTORY, k=1, held=held)).version == 1:
            assert answer.scores == (5.0 + OF_EMBEDDING + OF_STATE,)
            assert time.monotonic() < end
            time.sleep(0.02)
        assert (answer.version, answer.scores) == (2, (5.0,))


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"blend": 1.5}, "blend must be a number from -1 to 1, received 1.5."),
        ({"blend": float("nan")}, "blend must be a number from -1 to 1, received nan."),
        (
            {"target_weights": [1, -2]},
            "target_weights must hold numbers from 0 to 1e+38, received -2 at position 1.",
        ),
        (
            {"target_weights": [float("inf"), 1]},
            "target_weights must hold numbers from 0 to 1e+38, received inf at position 0.",
        ),
        (
            {"target_weights": [1, 2, 3]},
            "target_weights must hold exactly 2 numbers, one for each of `targets` in the model's "
            "assets.extra/tandem.json; received 3.",
        ),
        (
            {"held": HeldShopper(HELD.embedding[:5], HELD.state, 1)},
            "held.embedding must hold exactly 6 numbers, as version 1 answers; received 5.",
        ),
        (
            {"held": HeldShopper(HELD.embedding, (), 1)},
            "held.state must hold exactly 2 numbers, as version 1 answers; received 0.",
        ),
        ({"held": (1.0, 2.0)}, "held must be a HeldShopper, as hold answers, received (1.0, 2.0)."),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_value_that_does_not_fit_is_named(client: RecommenderClient, told: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        client.recommend(HISTORY, k=1, **told)


def test_held_shopper_is_of_finite_numbers() -> None:
    sentence = "held.state must hold numbers from -1e+38 to 1e+38, received nan at position 1."
    with pytest.raises(ValueError, match=re.escape(sentence)):
        HeldShopper([1.0], [0.0, float("nan")], 1)


@pytest.mark.parametrize(
    ("told", "names"),
    [
        ({"blend": 0.5}, "blend"),
        ({"target_weights": [1]}, "target_weights"),
        ({"held": HELD}, "user_embedding, user_state"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_model_without_the_input_is_named(earlier: RecommenderClient, told: dict[str, Any], names: str) -> None:
    with pytest.raises(ValueError, match=f"this model takes no {names}; it takes history_item_ids"):
        earlier.recommend(HISTORY, k=1, **told)
    assert earlier.recommend(HISTORY, k=1).item_ids == ("sku-1",)


def test_model_that_answers_no_state_holds_no_shopper(earlier: RecommenderClient) -> None:
    with pytest.raises(ValueError, match="embed_user of this model answers no state; it answers embedding"):
        earlier.hold(HISTORY)
    assert earlier.embed_user(HISTORY) == (1.0,)


def test_prepared_request_carries_what_is_held(client: RecommenderClient) -> None:
    sent = client.prepare("recommend", Query([Shopper(HISTORY, held=HELD, blend=0.5)]))
    assert set(sent.inputs) == {"history_item_ids", "user_embedding", "user_state", "blend"}
    assert list(sent.inputs["user_state"].float_val) == [3.0, 2.0]
