"""Both forms of one recommender, published together: the same answers from each, over gRPC and over REST."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from pipeline.serving_engine import take_port
from serving.client import Filter, ListRequest, RecommenderClient, Shopper
from serving.model_config import model_configs_for
from serving.options import ServerOptions
from serving.server import ModelServer
from tests.pipeline.untrained_run import SMALL, make_run

HISTORY = ["old-1", "old-3"]
POTS = Filter(["Home > pot"])
LISTS = [ListRequest("Pots", "Home > pot"), ListRequest("Cheap", price_max=1.1), ListRequest("Brand", brand="brand 3")]
QUESTIONS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "recommend": ((HISTORY, 6), {"filter": Filter(["Home"], ["brand 3", "brand 4"], 1.01, 1.2)}),
    "retrieve": ((HISTORY,), {"filter": Filter(allow=["old-8", "old-7", "elsewhere"], include_unavailable=True)}),
    "recommend_many": (([Shopper(HISTORY), Shopper([])], 6), {"filter": POTS}),
    "recommend_lists": ((HISTORY, LISTS), {"k": 3, "exclude": ["old-5"]}),
}


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RecommenderClient]]:
    config = replace(SMALL, export=replace(SMALL.export, index="both"))
    run, port = make_run(tmp_path_factory.mktemp("both"), 24, 12, config), take_port(0)
    options = ServerOptions(rest_api_port=port)
    with ModelServer(model_configs_for(run / "export"), port=0, options=options) as server:
        server.wait_until_available(300)
        asking = [
            RecommenderClient(**way, timeout=60, model=model)
            for model in ("recommender", "recommender_portable")
            for way in ({"target": server.address}, {"rest_target": f"127.0.0.1:{port}"})
        ]
        yield asking
        for client in asking:
            client.close()


@pytest.mark.slow
@pytest.mark.parametrize("question", QUESTIONS)
def test_both_forms_answer_alike_over_both_ways(clients: list[RecommenderClient], question: str) -> None:
    args, kwargs = QUESTIONS[question]
    first, *others = (getattr(client, question)(*args, **kwargs) for client in clients)
    assert all(answer == first for answer in others)


@pytest.mark.slow
def test_the_filter_holds_in_a_real_model(clients: list[RecommenderClient]) -> None:
    for client in clients:
        # Every fifth product is a pot.
        assert set(client.recommend(HISTORY, 6, filter=POTS).item_ids) == {f"old-{n}" for n in (0, 5, 10, 15, 20)}
        # Products 0, 7, 14 and 21 are of brand 0.
        brand = client.recommend(HISTORY, 6, filter=Filter(brands=["brand 0"], price_min=1.05))
        assert set(brand.item_ids) == {"old-7", "old-14", "old-21"}


@pytest.mark.slow
def test_held_shopper_of_a_real_model_is_answered_as_encoded_anew(clients: list[RecommenderClient]) -> None:
    for client in clients:
        held, anew = client.hold(HISTORY), client.recommend(HISTORY, 6)
        answer = client.recommend(HISTORY, 6, held=held, blend=0.0)
        assert answer.item_ids == anew.item_ids
        assert answer.scores == pytest.approx(anew.scores, abs=1e-4)
        other = client.recommend(HISTORY, 6, held=client.hold(["old-8"]))
        assert other.scores != pytest.approx(anew.scores, abs=1e-4), "what is held is what is read"
