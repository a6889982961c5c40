"""Second tries: what is asked again, how often, how long in all; and what a client may be told when it is made."""

import re
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from serving.client import RecommenderClient, RecommenderError, Retries, Tls
from serving.server import ModelServer
from tests.serving.grpc_proxy import proxy

BUSY = (grpc.StatusCode.UNAVAILABLE, "Socket closed")
QUICK = Retries(attempts=4, initial_backoff=0.01, max_backoff=0.02)


@pytest.mark.parametrize(
    "refusal",
    [
        BUSY,
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "Concurrent RPC limit exceeded!"),
    ],
    ids=["unavailable", "TensorFlow Serving full", "embedded server full"],
)
def test_what_was_not_begun_is_asked_again(server: ModelServer, refusal: tuple[grpc.StatusCode, str]) -> None:
    with proxy(server.address) as between, RecommenderClient(between.address, retries=QUICK) as client:
        between.refusals = [refusal] * 3
        assert client.recommend(["sku-2"], k=1).item_ids == ("sku-2",)
        assert len(between.asked) == 4
        assert len(set(between.asked)) == 1


@pytest.mark.parametrize(
    "refusal",
    [
        (grpc.StatusCode.INTERNAL, "broken"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max (9 vs. 8)"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "late"),
    ],
    ids=lambda refusal: refusal[0].name,
)
def test_what_would_fail_again_is_asked_once(server: ModelServer, refusal: tuple[grpc.StatusCode, str]) -> None:
    with proxy(server.address) as between, RecommenderClient(between.address, retries=QUICK) as client:
        between.refusals = [refusal]
        with pytest.raises(RecommenderError, match=f"{refusal[0].name}: Predict at .*{re.escape(refusal[1])}"):
            client.recommend(["sku-2"], k=1)
        assert len(between.asked) == 1


def test_the_last_refusal_is_the_error(server: ModelServer) -> None:
    with proxy(server.address) as between, RecommenderClient(between.address, retries=QUICK) as client:
        between.refusals = [*[BUSY] * 3, (grpc.StatusCode.UNAVAILABLE, "the fourth"), BUSY]
        with pytest.raises(RecommenderError, match=r"UNAVAILABLE: Predict at .*: the fourth"):
            client.recommend(["sku-2"], k=1)
        assert len(between.asked) == 4


def test_tries_end_with_the_callers_time(server: ModelServer) -> None:
    endless = Retries(attempts=10_000, initial_backoff=0.01, max_backoff=0.05)
    with proxy(server.address) as between, RecommenderClient(between.address, timeout=0.5, retries=endless) as client:
        client.recommend([], k=1)
        between.refusals = [BUSY] * 10_000
        began = time.monotonic()
        with pytest.raises(RecommenderError, match=r"UNAVAILABLE|DEADLINE_EXCEEDED"):
            client.recommend([], k=1)
        assert 0.4 < time.monotonic() - began < 1.0
        # A pause is 0.025 s on the average, so that about 20 fit.
        assert len(between.asked) > 5


def test_a_server_that_is_back_after_a_moment_answers(server: ModelServer) -> None:
    with proxy(server.address) as first:
        port = int(first.address.rpartition(":")[2])
        client = RecommenderClient(
            first.address, 10, retries=Retries(attempts=60, initial_backoff=0.2, max_backoff=0.2)
        )
        client.recommend([], k=1)
    # Nobody listens now.
    with client:
        answers: list[Any] = []
        asking = threading.Thread(target=lambda: answers.append(client.recommend(["sku-2"], k=1)))
        asking.start()
        time.sleep(0.3)
        assert not answers
        with proxy(server.address, port=port):
            asking.join(20)
    assert answers[0].item_ids == ("sku-2",)


def test_threads_share_one_connection(server: ModelServer) -> None:
    with proxy(server.address) as between, RecommenderClient(between.address) as client:
        asking = [
            threading.Thread(target=lambda: [client.recommend(["sku-2"], k=1) for _ in range(10)]) for _ in range(8)
        ]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
        assert len(between.asked) == 80
        assert len(between.peers) == 1


def test_pauses_grow_up_to_a_limit_and_spread() -> None:
    retries = Retries(initial_backoff=0.1, max_backoff=0.3, multiplier=2)
    for tried, longest in ((1, 0.1), (2, 0.2), (3, 0.3), (9, 0.3)):
        pauses = [retries.pause(tried) for _ in range(1_000)]
        # Uniform: of 1,000 draws some lie in the highest and in the lowest tenth.
        assert longest * 0.9 < max(pauses) <= longest
        assert 0 <= min(pauses) < longest * 0.1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, "a client needs target (gRPC), rest_target (REST) or both, received neither."),
        (
            {"target": "a:1", "version": 3, "version_label": "canary"},
            "a request names a version or a label, received version 3 and version_label 'canary'.",
        ),
        ({"target": "a:1", "timeout": 0}, "timeout must be above 0 seconds, received 0."),
        ({"rest_target": "shop"}, "rest_target must be HOST:PORT or an http(s) URL, received 'shop'."),
        ({"rest_target": "ftp://a:1"}, "rest_target must be HOST:PORT or an http(s) URL, received 'ftp://a:1'."),
        ({"rest_target": "a:one"}, "rest_target must be HOST:PORT or an http(s) URL, received 'a:one'."),
    ],
    ids=str,
)
def test_arguments_that_exclude_each_other_are_named(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        RecommenderClient(**arguments)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"attempts": 0}, "attempts must be at least 1, received 0."),
        ({"initial_backoff": 0}, "initial_backoff must be above 0 seconds, received 0."),
        ({"multiplier": 0.5}, "multiplier must be at least 1, received 0.5."),
    ],
    ids=str,
)
def test_retries_that_make_no_sense_are_refused(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        Retries(**arguments)


def test_certificates_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "root.crt").write_text("nothing")
    with pytest.raises(ValueError, match=r"root_certificate must be a PEM file or PEM text: .*root\.crt holds no"):
        Tls(tmp_path / "root.crt")
    with pytest.raises(ValueError, match=r"root_certificate must be .*none\.crt: No such file or directory\."):
        Tls(str(tmp_path / "none.crt"))
    with pytest.raises(ValueError, match="certificate and key go together, received key without certificate"):
        Tls(key=tmp_path / "root.crt")
