"""The load generator: counts that add up, queueing that is not hidden, and results that can be read."""

import json
import os
import re
import socket
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest

from pipeline.bench_load import SHORT_ANSWER, Load, Sender, arrivals, closed_loop, open_loop
from pipeline.bench_page import charts
from pipeline.bench_results import result
from pipeline.bench_serve import find_capacity
from pipeline.cli import main
from pipeline.server_process import listening_process, measured
from protos.predict_pb2 import DT_FLOAT, DT_STRING, PredictResponse
from serving.client_tensors import make_tensor
from serving.model_config import model_configs_for
from serving.server import ModelServer
from tests.serving.models import TinyRecommender, publish

HISTORIES = [
    {"history": ["sku-1", "sku-2"], "event_types": ["view", "purchase"], "timestamps": [1, 2]},
    {"history": []},
    {"history": ["sku-9"] * 40},
]


@contextmanager
def answering(answer: Callable[[grpc.ServicerContext], bytes], threads: int = 4) -> Iterator[str]:
    """The address of a server that answers any call."""

    class Handler(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
            return grpc.unary_unary_rpc_method_handler(lambda request, context: answer(context))

    server = grpc.server(ThreadPoolExecutor(threads))
    server.add_generic_rpc_handlers((Handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@contextmanager
def sending(target: str, timeout: float = 10, products: int | None = None) -> Iterator[Sender]:
    """A sender of empty requests, connected."""
    sender = Sender(target, [b""], timeout, products=products)
    for number in range(2):
        sender.send(number, 0.0)
    yield sender
    sender.close()


def response(version: int, *item_ids: str) -> bytes:
    message = PredictResponse()
    message.model_spec.version.value = version
    message.outputs["item_ids"].CopyFrom(make_tensor(DT_STRING, [1, len(item_ids)], item_ids))
    message.outputs["scores"].CopyFrom(make_tensor(DT_FLOAT, [1, len(item_ids)], [0.0] * len(item_ids)))
    return message.SerializeToString()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServer]:
    folder = tmp_path_factory.mktemp("models")
    publish(TinyRecommender().save(folder / "saved"), folder / "export" / "recommender", 3)
    with ModelServer(model_configs_for(folder / "export"), port=0) as running:
        running.wait_until_available(60)
        yield running


@pytest.fixture
def histories(tmp_path: Path) -> Path:
    path = tmp_path / "histories.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in HISTORIES))
    return path


def test_the_counts_of_a_sweep_add_up(
    server: ModelServer, histories: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--target", server.address, "--histories", str(histories), "--rates", "40,80", "--closed-loop", "2"]
    arguments += ["--seconds", "1.5", "--even", "--verify", "-k", "6", "--out", str(tmp_path / "out")]
    assert main(["bench", "serve", *arguments]) == 0
    written = json.loads((tmp_path / "out" / "bench.json").read_text())
    callers, slow, fast = written["loads"]
    assert (callers["rate"], slow["rate"], fast["rate"]) == (None, 40, 80)
    assert (slow["sent"], fast["sent"]) == (60, 120)
    for load in (callers, slow, fast):
        assert load["answered"] + sum(load["errors"].values()) == load["sent"] > 0
        assert load["errors"] == {}
        assert load["versions"] == {"3": load["sent"]}
        assert 0 < load["latency_ms"]["p50"] <= load["latency_ms"]["p90"] <= load["latency_ms"]["p99"]
        # The server runs in this process.
        assert load["server"]["pid"] == os.getpid()
        assert load["server"]["cpu_ms_per_request"] > 0
        assert load["server"]["rss_mib"] > 50
    assert slow["achieved_rate"] == pytest.approx(40, rel=0.1)
    assert fast["achieved_rate"] == pytest.approx(80, rel=0.1)
    assert "80 requests/s: 120 sent" in capsys.readouterr().out
    drawings = re.findall(r"<svg.*?</svg>", (tmp_path / "out" / "bench.html").read_text(), re.DOTALL)
    # Latency by rate, and over time for each of the three loads.
    assert [ET.fromstring(svg).attrib["aria-label"] for svg in drawings] == [
        "Latency in milliseconds by requests a second",
        "Latency over time, 2 callers, one by one",
        "Latency over time, 40 requests/s",
        "Latency over time, 80 requests/s",
    ]


@pytest.mark.parametrize("callers", [256, 1])
def test_a_slow_server_gets_its_queue_into_the_latencies(callers: int) -> None:
    def slowly(context: grpc.ServicerContext) -> bytes:
        time.sleep(0.02)
        return b""

    # 100 requests, one every 10 ms, each served in 20 ms, one by one: request n is due at 0.01 n and done at
    # 0.02 (n + 1), so it takes 0.02 + 0.01 n: 1.01 s for the last, 0.515 s at the median, and more where the machine
    # does other work. With one caller the queue stands in the sender, and counts as much.
    with answering(slowly, threads=1) as target, sending(target) as sender:
        load = open_loop(sender, arrivals(100, 1.0, poisson=False), callers)
    assert 0.02 <= load.latencies[0] < 0.1
    assert 0.515 <= np.median(load.latencies) < 1.0
    assert 1.01 <= load.latencies[-1] < 1.9
    assert (load.sent - load.intended).max() > 0.9 if callers == 1 else (load.sent - load.intended).max() < 0.5


def test_errors_are_counted_by_code() -> None:
    numbers = iter(range(1_000))

    def refusing_each_fourth(context: grpc.ServicerContext) -> bytes:
        if next(numbers) % 4 == 0:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        return response(1, "a")

    with answering(refusing_each_fourth, threads=1) as target, sending(target) as sender:
        figures = result(open_loop(sender, arrivals(400, 0.25, poisson=False), 8), 400, 8, None)
    # Two requests came before, to connect.
    assert figures.errors == {"RESOURCE_EXHAUSTED": 25}
    assert (figures.sent, figures.answered, figures.versions) == (100, 75, {1: 75})
    assert figures.server is None


def test_a_request_that_waits_too_long_is_an_error() -> None:
    with answering(lambda context: (time.sleep(0.3), b"")[1], threads=1) as target, sending(target, 0.4) as sender:
        load = open_loop(sender, np.zeros(4), 4)
    assert sorted(load.outcomes.tolist()) == ["DEADLINE_EXCEEDED"] * 3 + ["OK"]


def test_an_answer_with_too_few_products_is_an_error_where_answers_are_looked_at() -> None:
    with answering(lambda context: response(1, "a", "", "b")) as target:
        for products, outcome in ((None, "OK"), (2, "OK"), (3, SHORT_ANSWER)):
            with sending(target, products=products) as sender:
                assert set(open_loop(sender, np.zeros(3), 1).outcomes) == {outcome}


def test_closed_loop_has_so_many_requests_under_way() -> None:
    under_way: set[int] = set()
    most = 0

    def answer(context: grpc.ServicerContext) -> bytes:
        nonlocal most
        under_way.add(id(context))
        most = max(most, len(under_way))
        time.sleep(0.01)
        under_way.discard(id(context))
        return b""

    with answering(answer, threads=8) as target, sending(target) as sender:
        load = closed_loop(sender, 3, 0.5)
    assert most == 3
    # Three callers, at most one answer each 10 ms each.
    assert 20 < len(load.done) <= 150


def test_evenly_spaced_arrivals() -> None:
    assert arrivals(4, 1.5, poisson=False).tolist() == [0.0, 0.25, 0.5, 0.75, 1.0, 1.25]


def test_independent_arrivals_have_gaps_that_spread_as_much_as_they_are_long() -> None:
    times = arrivals(100, 100, poisson=True)
    # 10,000 on the average, ± 100; the gaps of a Poisson process have a standard deviation equal to their mean.
    assert abs(len(times) - 10_000) < 500
    assert np.diff(times).std() == pytest.approx(np.diff(times).mean(), rel=0.05)
    assert times.max() < 100


def test_a_capacity_is_found_to_five_percent() -> None:
    tried: list[float] = []

    def passes(rate: float) -> bool:
        tried.append(rate)
        return rate <= 437

    assert 437 / 1.05 <= find_capacity(passes) <= 437
    assert len(tried) == len(set(tried)) < 12
    assert find_capacity(lambda rate: False) is None


def test_figures_of_a_load_worked_by_hand() -> None:
    # Due at 0 … 9 s, each answered after 0.1 s, but number 9 after 1 s; number 4 was refused; version 2 from 5 s on.
    due = np.arange(10.0)
    done = due + np.where(due == 9, 1.0, 0.1)
    outcomes = np.where(due == 4, "UNAVAILABLE", "OK")
    load = Load(due, due + 0.01, done, outcomes, np.where(due == 4, 0, np.where(due < 5, 1, 2)), 0.5)
    figures = result(load, 1.0, 4, None)
    assert (figures.sent, figures.answered, figures.errors) == (10, 9, {"UNAVAILABLE": 1})
    assert figures.versions == {1: 4, 2: 5}
    assert figures.latency_ms.p50 == pytest.approx(100)
    assert figures.latency_ms.max == pytest.approx(1_000)
    # Nine answers from 0 to 10 s.
    assert figures.achieved_rate == pytest.approx(0.9)
    assert figures.client_cpu_ms_per_request == pytest.approx(50)
    assert figures.send_delay_p99_ms == pytest.approx(10)
    (chart,) = charts([figures])
    labels = [text.text for text in ET.fromstring(chart.svg).iter("text")]
    assert "▲ version 2" in labels
    assert "▲ version 1" not in labels


def test_the_process_behind_a_port_is_found_and_measured() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        assert listening_process(f"127.0.0.1:{port}") == os.getpid()
    assert listening_process(f"127.0.0.1:{port}") is None
    assert listening_process(f"shop.example:{port}") is None
    with measured(os.getpid()) as usage:
        end = time.process_time() + 0.3
        while time.process_time() < end:
            pass
    assert 0.25 < usage.cpu_seconds < 3
    assert usage.rss_peak >= usage.rss_after > 10 << 20


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "takes either --run or --histories"),
        (["--histories", "h"], "nothing to measure: give --rates, --closed-loop or --find-capacity"),
        (["--histories", "h", "--rates", "0"], "rates must be above 0, received [0.0]"),
        (["--histories", "h", "--rates", "9", "--seconds", "-1"], "seconds must be above 0, received -1.0"),
        (["--histories", "h", "--rates", "9", "--signature", "x"], "signature must be one of recommend, retrieve"),
    ],
    ids=lambda value: "" if isinstance(value, str) else " ".join(value),
)
def test_options_that_do_not_fit_are_named(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "serve", *arguments]) == 1
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "at least one shopper is needed, received none"),
        ('{"history": ["a"]}\n["a"]\n', "line 2: not a shopper"),
        ('{"history": "a"}\n', "line 1: not a shopper: history must be a sequence of product ids"),
        ('{"history": ["a"], "speed": 1}\n', "line 1: not a shopper"),
    ],
    ids=["empty", "list", "string", "unknown key"],
)
def test_a_line_that_is_no_shopper_is_named(
    text: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "histories.jsonl"
    path.write_text(text)
    assert main(["bench", "serve", "--histories", str(path), "--rates", "1"]) == 1
    error = capsys.readouterr().err
    assert str(path) in error
    assert sentence in error
