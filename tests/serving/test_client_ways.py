"""The same questions over gRPC, asyncio and REST: same answers, encryption, and REST where gRPC can't be reached."""

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import serving.client_conversation
import serving.client_questions
from serving.client import (
    Context,
    Filter,
    HeldShopper,
    ListRequest,
    Query,
    RecommenderClient,
    RecommenderError,
    Retries,
    Shopper,
    Tls,
)
from serving.client_aio import AsyncRecommenderClient
from serving.model_config import model_configs_for
from serving.server import ModelServer
from tests.serving.certificates import Authority
from tests.serving.grpc_proxy import proxy
from tests.serving.models import TinyRecommender, publish
from tests.serving.rest_bridge import Bridge, bridge

BOUGHT = Shopper(["sku-2", "sku-5"], ["view", "purchase"], [1_000, 5_000], Context(timestamp=6_001), ["sku-1"])
HELD = HeldShopper((2.0, 0.0, 1.0, 0.0, 0.0, 0.0), (3.0, 2.0), version=1)
TOLD: dict[str, Any] = {"blend": -0.5, "target_weights": [1, 2.5]}
# Method, and what sets two questions to one method apart.
QUESTIONS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "recommend": (
        (["sku-2", "sku-5"],),
        {"k": 3, "event_types": BOUGHT.event_types, "timestamps": BOUGHT.timestamps, "context": BOUGHT.context},
    ),
    "recommend_many": (([BOUGHT, Shopper([]), Shopper(["sku-9", "sku-3"])],), {"k": 4}),
    "retrieve": ((["sku-1"],), {"exclude": ["sku-1"]}),
    "rank": ((["sku-1", "sku-2"], ["sku-9", "sku-1", "sku-2"]), {}),
    "similar_items": (("sku-3",), {"k": 2}),
    "complementary_items": (("sku-5",), {"k": 2}),
    "embed_user": ((["sku-1", "sku-1", "sku-3"],), {}),
    "recommend within": (
        (["sku-2", "sku-6"],),
        {
            "k": 3,
            "exclude": ["sku-4"],
            "filter": Filter(["hats", "shoes"], ["zest"], 15.5, 60, ["sku-2", "sku-4", "sku-6"], True),
        },
    ),
    "recommend_many within": (([Shopper(["sku-1"]), Shopper(["sku-4"])],), {"filter": Filter(brands=["acme"]), "k": 2}),
    "retrieve within": ((["sku-5"],), {"filter": Filter(price_max=50)}),
    "recommend_lists": (
        (["sku-2", "sku-5"], [ListRequest("Hats", category="hats"), ListRequest("Cheap", price_max=30)]),
        {"k": 1, "exclude": ["sku-2"]},
    ),
    "hold": ((["sku-1", "sku-1", "sku-3"],), {}),
    "recommend held": ((["sku-1", "sku-1", "sku-3"],), TOLD | {"held": HELD, "k": 3}),
    "recommend_many held": (([Shopper(["sku-2"], held=HELD), Shopper(["sku-4"], **TOLD)],), {"k": 2}),
    "retrieve held": ((["sku-1", "sku-1", "sku-3"],), {"held": HELD}),
    "rank held": ((["sku-1", "sku-3"], ["sku-2", "sku-3"]), TOLD | {"held": HELD}),
    "recommend_lists held": ((["sku-3"], [ListRequest("Cheap", price_max=30)]), TOLD | {"held": HELD}),
    "wait_until_ready": ((), {}),
}


@pytest.fixture(scope="module")
def rest(server: ModelServer) -> Iterator[Bridge]:
    with bridge(server.address) as running:
        yield running


@pytest.fixture
def closed_port() -> str:
    """An address where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


async def _awaited(question: str, **reached_at: Any) -> Any:
    args, kwargs = QUESTIONS[question]
    async with AsyncRecommenderClient(**reached_at) as client:
        return await getattr(client, question.split()[0])(*args, **kwargs)


@pytest.mark.parametrize("question", QUESTIONS)
def test_every_way_gives_the_same_answer(server: ModelServer, rest: Bridge, question: str) -> None:
    args, kwargs = QUESTIONS[question]
    with RecommenderClient(server.address) as client, RecommenderClient(rest_target=rest.address) as over_rest:
        method = question.split()[0]
        expected = getattr(client, method)(*args, **kwargs)
        assert getattr(over_rest, method)(*args, **kwargs) == expected
    assert asyncio.run(_awaited(question, target=server.address)) == expected
    assert asyncio.run(_awaited(question, rest_target=rest.address)) == expected


def test_shoppers_asked_together_are_answered_as_alone(server: ModelServer) -> None:
    alone = RecommenderClient(server.address)
    with proxy(server.address) as between, RecommenderClient(between.address) as client:
        together = client.recommend_many([BOUGHT, Shopper(["sku-3"])], k=6)
        assert len(between.asked) == 1
    assert together == [
        alone.recommend(
            BOUGHT.history,
            6,
            event_types=BOUGHT.event_types,
            timestamps=BOUGHT.timestamps,
            context=BOUGHT.context,
            exclude=BOUGHT.exclude,
        ),
        alone.recommend(["sku-3"], 6),
    ]
    # Bought in the newest slot: 5 + 100, and 1.001 s ago; nobody bought sku-3, the excluded sku-1 goes last.
    assert together[0].scores[0] == pytest.approx(106.001)
    assert (together[0].item_ids[0], together[0].item_ids[-1]) == ("sku-5", "sku-1")
    assert together[1].scores[0] == 5.0
    alone.close()


def test_one_shopper_sends_what_is_known_and_several_send_every_input(server: ModelServer) -> None:
    with RecommenderClient(server.address) as client:
        one = client.prepare("recommend", Query([Shopper(["sku-3"])]))
        two = client.prepare("recommend", Query([BOUGHT, Shopper(["sku-3"])]))
    assert set(one.inputs) == {"history_item_ids"}
    sizes = {name: [dim.size for dim in tensor.tensor_shape.dim] for name, tensor in two.inputs.items()}
    assert sizes == {
        "history_item_ids": [2, 5],
        "history_event_types": [2, 5],
        "history_timestamps": [2, 5],
        "context_timestamp": [2],
        "exclude_item_ids": [2, 3],
        "user_embedding": [2, 6],
        "user_state": [2, 2],
        "blend": [2],
        "target_weights": [2, 2],
    }
    assert list(two.inputs["history_timestamps"].int64_val) == [0, 0, 0, 1_000, 5_000, 0, 0, 0, 0, 0]


def test_no_shoppers_are_no_request(closed_port: str) -> None:
    with RecommenderClient(closed_port) as client:
        assert client.recommend_many([]) == []


def test_an_answer_above_four_megabytes_is_taken(server: ModelServer) -> None:
    five = 5 << 20
    with proxy(server.address) as between, RecommenderClient(between.address) as client:
        # Field 15, which PredictResponse does not have, of that many bytes (its length as a varint).
        between.appended = bytes([0x7A, *(five >> shift & 0x7F | 0x80 for shift in (0, 7, 14)), five >> 21]) + bytes(
            five
        )
        assert client.recommend(["sku-4"], k=1).item_ids == ("sku-4",)


@pytest.mark.parametrize("way", ["target", "rest_target"])
def test_an_answer_above_the_clients_limit_is_refused(server: ModelServer, rest: Bridge, way: str) -> None:
    address = {"target": server.address, "rest_target": rest.address}[way]
    with RecommenderClient(**{way: address}, max_message_bytes=50_000) as client:
        client.recommend([], k=1)
        with pytest.raises(RecommenderError, match="RESOURCE_EXHAUSTED") as caught:
            client.recommend_many([Shopper([])] * 1_000, k=1)
    assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_errors_over_rest_are_those_of_grpc(rest: Bridge) -> None:
    with (
        RecommenderClient(rest_target=rest.address, model="nobody") as client,
        pytest.raises(RecommenderError) as caught,
    ):
        client.recommend([])
    assert caught.value.code is grpc.StatusCode.NOT_FOUND
    assert str(caught.value) == (
        f"NOT_FOUND: GetModelMetadata at {rest.address}: Servable not found for request: Latest(nobody)"
    )


def test_rest_keeps_its_connection(rest: Bridge) -> None:
    rest.asked.clear()
    with RecommenderClient(rest_target=rest.address) as client:
        for _ in range(5):
            client.recommend([], k=1)
    assert [path for path, _ in rest.asked] == [
        "/v1/models/recommender/metadata",
        *["/v1/models/recommender/versions/1:predict"] * 5,
    ]
    assert len({address for _, address in rest.asked}) == 1


def test_rest_notices_a_new_version(recommender: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving.client_questions, "_REST_VERSION_SECONDS", 0.05)
    publish(recommender, tmp_path / "recommender", 1)
    with ModelServer(model_configs_for(tmp_path), 0) as embedded, bridge(embedded.address) as rest:
        embedded.wait_until_available(60)
        with RecommenderClient(rest_target=rest.address) as client:
            assert client.recommend(["sku-2"], k=1).version == 1
            TinyRecommender(3).save(tmp_path / "whole")
            publish(tmp_path / "whole", tmp_path / "recommender", 2)
            end = time.monotonic() + 30
            while (answer := client.recommend(["sku-2"], k=1)).version == 1:
                assert time.monotonic() < end
                time.sleep(0.02)
    # The history of the new one has three slots.
    assert (answer.version, answer.scores) == (2, (3.0,))


def test_rest_stands_in_for_unreachable_grpc_and_the_log_says_so_once(
    server: ModelServer, rest: Bridge, closed_port: str, caplog: pytest.LogCaptureFixture
) -> None:
    with RecommenderClient(server.address) as client:
        expected = client.recommend(["sku-2"], k=3)
    caplog.set_level(logging.INFO)
    with RecommenderClient(closed_port, rest_target=rest.address) as client:
        assert [client.recommend(["sku-2"], k=3) for _ in range(3)] == [expected] * 3
    (line,) = [record.getMessage() for record in caplog.records if record.name == "serving.client_conversation"]
    assert line.startswith(f"UNAVAILABLE: GetModelMetadata at {closed_port}: ")
    assert line.endswith(f"; asking {rest.address} over REST instead")


def test_grpc_is_used_again_when_it_answers(
    server: ModelServer,
    rest: Bridge,
    closed_port: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(serving.client_conversation, "_GRPC_AGAIN_SECONDS", 0.0)
    with RecommenderClient(closed_port, rest_target=rest.address) as client:
        client.recommend([], k=1)
        with proxy(server.address, port=int(closed_port.partition(":")[2])) as back:
            end = time.monotonic() + 20
            while not back.asked:
                assert time.monotonic() < end
                client.recommend([], k=1)
                time.sleep(0.05)
    assert caplog.messages[-1] == f"gRPC at {closed_port} answers again; REST is no longer used"


def test_a_port_that_speaks_http_only_is_left_for_rest(rest: Bridge) -> None:
    with RecommenderClient(rest.address, rest_target=f"http://{rest.address}") as client:
        assert client.recommend(["sku-2"], k=1).item_ids == ("sku-2",)


def test_a_silent_port_is_left_for_rest_within_the_deadline(rest: Bridge) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        target = f"127.0.0.1:{silent.getsockname()[1]}"
        with RecommenderClient(target, timeout=2, rest_target=rest.address) as client:
            began = time.monotonic()
            assert client.recommend(["sku-2"], k=1).item_ids == ("sku-2",)
            assert time.monotonic() - began < 2


def test_where_neither_answers_the_error_is_rests(closed_port: str) -> None:
    with (
        RecommenderClient(closed_port, rest_target=closed_port) as client,
        pytest.raises(RecommenderError, match=f"UNAVAILABLE: GetModelMetadata at {closed_port}: .*Connection refused"),
    ):
        client.recommend([])


def test_a_silent_rest_server_meets_the_deadline() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        began = time.monotonic()
        with (
            RecommenderClient(rest_target=f"127.0.0.1:{silent.getsockname()[1]}", timeout=0.3) as client,
            pytest.raises(RecommenderError, match="DEADLINE_EXCEEDED"),
        ):
            client.recommend([])
    assert 0.25 < time.monotonic() - began < 2


def test_a_version_label_is_sent(server: ModelServer, rest: Bridge) -> None:
    rest.asked.clear()
    for way in ({"target": server.address}, {"rest_target": rest.address}):
        with (
            RecommenderClient(**way, version_label="canary") as client,
            pytest.raises(RecommenderError, match=r"INVALID_ARGUMENT.*Unrecognized servable version label: canary"),
        ):
            client.recommend([])
    assert rest.asked[0][0] == "/v1/models/recommender/labels/canary/metadata"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.mark.parametrize("as_text", [False, True], ids=["paths", "text"])
def test_both_sides_show_certificates_over_grpc(server: ModelServer, authority: Authority, as_text: bool) -> None:
    theirs, ours = authority.sign("server"), authority.sign("client")
    root = authority.certificate
    credentials = grpc.ssl_server_credentials(
        [(theirs.key.read_bytes(), theirs.certificate.read_bytes())], root.read_bytes(), require_client_auth=True
    )
    files = (root, ours.certificate, ours.key)
    tls = Tls(*(path.read_text() for path in files)) if as_text else Tls(*files)
    with proxy(server.address, credentials) as secured:
        with RecommenderClient(secured.address, tls=tls) as client:
            assert client.recommend(["sku-2"], k=1).item_ids == ("sku-2",)
        with RecommenderClient(secured.address, 2, tls=Tls(root)) as client, pytest.raises(RecommenderError):
            client.recommend([])


def test_both_sides_show_certificates_over_rest(server: ModelServer, authority: Authority) -> None:
    theirs, ours = authority.sign("server"), authority.sign("client")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.certificate))
    context.load_cert_chain(theirs.certificate, theirs.key)
    context.verify_mode = ssl.CERT_REQUIRED
    tls = Tls(authority.certificate, ours.certificate, ours.key)
    with bridge(server.address, context) as secured, RecommenderClient(rest_target=secured.address, tls=tls) as client:
        assert client.recommend(["sku-2"], k=1).item_ids == ("sku-2",)


def test_a_server_that_a_stranger_vouches_for_is_not_trusted(
    server: ModelServer, authority: Authority, tmp_path: Path
) -> None:
    theirs = authority.sign("server")
    credentials = grpc.ssl_server_credentials([(theirs.key.read_bytes(), theirs.certificate.read_bytes())])
    stranger = Authority(tmp_path, "stranger").certificate
    with (
        proxy(server.address, credentials) as secured,
        RecommenderClient(secured.address, 5, tls=Tls(stranger), retries=Retries(1)) as client,
        pytest.raises(RecommenderError, match=r"UNAVAILABLE.*CERTIFICATE_VERIFY_FAILED"),
    ):
        client.recommend([])
