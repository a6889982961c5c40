"""`tandem bench serve`: how much a Predict target takes, with the histories of real shoppers."""

import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pipeline.bench_load import Load, Sender, arrivals, closed_loop, open_loop
from pipeline.bench_page import PAGE_FILE, load_name, write_page
from pipeline.bench_results import Result, result
from pipeline.runner import StepError
from pipeline.server_process import listening_process, measured
from pipeline.shopper_histories import all_histories
from serving.client import Query, RecommenderClient, Shopper

log = logging.getLogger(__name__)

Signature = Literal["recommend", "retrieve", "similar_items", "complementary_items", "embed_user"]
RESULTS_FILE = "bench.json"
# Requests that are made ready; longer loads ask them again from the first.
_REQUESTS = 2_000
_WARM_UP = 50
# The search for the capacity ends when the rates that pass and fail are this close.
_CAPACITY_PRECISION = 1.05
_FIRST_RATE = 50.0


@dataclass(frozen=True)
class BenchOptions:
    """What is measured.

    Args:
        target: HOST:PORT of PredictionService.
        run: a run whose shoppers ask.
        histories: a file of shoppers instead: JSON lines of `{"history": […], "event_types": […], "timestamps": […]}`.
        model: name of the model on the server.
        signature: what is asked.
        k: products that each answer must have, if `verify`.
        rates: requests a second, one load each.
        seconds: length of a load.
        poisson: independent arrivals; False = evenly spaced.
        closed_loop: callers that ask one by one for comparison, one load each.
        find_capacity: look for the largest rate with a 99th percentile up to `p99_ms` and no errors.
        p99_ms: milliseconds.
        verify: look into each answer.
        timeout: seconds.
        callers: requests that may be under way at once.
        channels: connections.
        server_pid: the server's process; None = the one that listens on the target's port of this machine.
        out: folder for bench.json and bench.html; None = none are written.
    """

    target: str
    run: Path | None = None
    histories: Path | None = None
    model: str = "recommender"
    signature: Signature = "recommend"
    k: int = 20
    rates: tuple[float, ...] = ()
    seconds: float = 10.0
    poisson: bool = True
    closed_loop: tuple[int, ...] = ()
    find_capacity: bool = False
    p99_ms: float = 50.0
    verify: bool = False
    timeout: float = 5.0
    callers: int = 256
    channels: int = 2
    server_pid: int | None = None
    out: Path | None = None

    def __post_init__(self) -> None:
        if (self.run is None) == (self.histories is None):
            raise StepError("tandem bench serve takes either --run or --histories.")
        if not (self.rates or self.closed_loop or self.find_capacity):
            raise StepError("nothing to measure: give --rates, --closed-loop or --find-capacity.")
        for name in ("rates", "closed_loop"):
            if any(value <= 0 for value in getattr(self, name)):
                raise StepError(f"{name} must be above 0, received {list(getattr(self, name))}.")
        for name in ("seconds", "p99_ms", "timeout", "callers", "channels"):
            if getattr(self, name) <= 0:
                raise StepError(f"{name} must be above 0, received {getattr(self, name)}.")
        if self.signature not in get_args(Signature):
            raise StepError(f"signature must be one of {', '.join(get_args(Signature))}, received {self.signature!r}.")
        if self.verify and self.signature == "embed_user":
            raise StepError("--verify counts products; embed_user answers with none.")


def bench_serve(options: BenchOptions) -> list[Result]:
    """Measures every load that is asked for, prints a line for each, and writes the results.

    Raises:
        StepError: options that exclude each other, or no shoppers.
        RecommenderError: the target does not answer at all.
    """
    requests = requests_for(options, read_shoppers(options))
    pid = options.server_pid or listening_process(options.target)
    if pid is None:
        log.warning("the server's processor time is not measured: no process of this machine listens on its port")
    sender = Sender(options.target, requests, options.timeout, options.channels, options.k if options.verify else None)
    bench = _Bench(options, sender, pid)
    try:
        closed_loop(sender, 1, 0.01)
        open_loop(sender, arrivals(_FIRST_RATE, _WARM_UP / _FIRST_RATE, False), options.callers)
        for callers in options.closed_loop:
            bench.one_by_one(callers)
        for rate in options.rates:
            bench.at(rate)
        capacity = find_capacity(lambda rate: _passes(bench.at(rate), options)) if options.find_capacity else None
    finally:
        sender.close()
    if options.find_capacity:
        print(_capacity_line(capacity, options))
    if options.out is not None:
        _write(options, bench.results, capacity)
    return bench.results


class _Bench:
    """Runs loads, one after the other, and keeps their figures."""

    def __init__(self, options: BenchOptions, sender: Sender, pid: int | None) -> None:
        self._options = options
        self._sender = sender
        self._pid = pid
        self.results: list[Result] = []

    def at(self, rate: float) -> Result:
        """Open loop."""
        times = arrivals(rate, self._options.seconds, self._options.poisson)
        return self._measure(lambda: open_loop(self._sender, times, self._options.callers), rate, self._options.callers)

    def one_by_one(self, callers: int) -> Result:
        """Closed loop."""
        return self._measure(lambda: closed_loop(self._sender, callers, self._options.seconds), None, callers)

    def _measure(self, send: Callable[[], Load], rate: float | None, callers: int) -> Result:
        with measured(self._pid) as usage:
            load = send()
        figures = result(load, rate, callers, usage)
        print(describe(figures), flush=True)
        self.results.append(figures)
        return figures


def find_capacity(passes: Callable[[float], bool], first: float = _FIRST_RATE) -> float | None:
    """The largest rate that passes, to within 5 %; None if `first` fails.

    Doubles until a rate fails, then halves the distance. A rate is tried once.
    """
    low, high = None, first
    while passes(high):
        low, high = high, high * 2
    if low is None:
        return None
    while high / low > _CAPACITY_PRECISION:
        middle = (low + high) / 2
        if passes(middle):
            low = middle
        else:
            high = middle
    return low


def requests_for(options: BenchOptions, shoppers: Sequence[Shopper]) -> list[bytes]:
    """One request a shopper, as bytes, as the client would send it."""
    with RecommenderClient(options.target, timeout=max(options.timeout, 5.0), model=options.model) as client:
        client.wait_until_ready()
        return [client.prepare(options.signature, query).SerializeToString() for query in _queries(options, shoppers)]


def read_shoppers(options: BenchOptions) -> list[Shopper]:
    """The shoppers of the run or of the file.

    Raises:
        StepError: a line that is no shopper, or no shoppers at all.
    """
    if options.run is not None:
        return [history.shopper() for history in all_histories(options.run, _REQUESTS)]
    assert options.histories is not None
    shoppers = []
    with options.histories.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                shoppers.append(Shopper(**json.loads(line)))
            except (ValueError, TypeError) as error:
                raise StepError(f"{options.histories}, line {number}: not a shopper: {error}") from None
            if len(shoppers) == _REQUESTS:
                break
    if not shoppers:
        raise StepError(f"{options.histories}: at least one shopper is needed, received none.")
    return shoppers


def describe(figures: Result) -> str:
    """A load in one line."""
    parts = [f"{load_name(figures)}: {figures.sent} sent, {figures.achieved_rate:.0f} answers/s"]
    if figures.latency_ms is not None:
        shown = figures.latency_ms
        parts.append(f"p50 {shown.p50:.1f}, p90 {shown.p90:.1f}, p99 {shown.p99:.1f}, max {shown.max:.1f} ms")
    parts.append("errors " + (", ".join(f"{code} {count}" for code, count in figures.errors.items()) or "0"))
    parts.append("versions " + ", ".join(f"{version} ({count})" for version, count in figures.versions.items()))
    if figures.server is not None:
        used = figures.server
        parts.append(
            f"server {used.cores:.2f} cores, {used.cpu_ms_per_request:.2f} ms a request, {used.rss_peak_mib:.0f} MiB"
        )
    parts.append(f"sender {figures.client_cores:.2f} cores, {figures.client_cpu_ms_per_request:.2f} ms a request")
    return "; ".join(parts)


def _queries(options: BenchOptions, shoppers: Sequence[Shopper]) -> list[Query]:
    k = None if options.signature in ("retrieve", "embed_user") else options.k
    if options.signature in ("similar_items", "complementary_items"):
        return [Query(k=k, item_id=shopper.history[-1]) for shopper in shoppers if shopper.history]
    return [Query([shopper], k) for shopper in shoppers]


def _passes(figures: Result, options: BenchOptions) -> bool:
    return not figures.errors and figures.latency_ms is not None and figures.latency_ms.p99 <= options.p99_ms


def _capacity_line(capacity: float | None, options: BenchOptions) -> str:
    goal = f"with p99 up to {options.p99_ms:g} ms and no errors"
    return f"capacity: {capacity:.0f} requests/s {goal}" if capacity else f"no rate from {_FIRST_RATE:g} on {goal}"


def _write(options: BenchOptions, results: Sequence[Result], capacity: float | None) -> None:
    assert options.out is not None
    options.out.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {
        "target": options.target,
        "model": options.model,
        "signature": options.signature,
        "k": options.k,
        "seconds": options.seconds,
        "arrivals": "poisson" if options.poisson else "even",
        "cores": os.cpu_count(),
        "loads": [one.as_json() for one in results],
    }
    if options.find_capacity:
        content["capacity"] = {"requests_per_second": capacity, "p99_ms": options.p99_ms}
    (options.out / RESULTS_FILE).write_text(json.dumps(content, indent=1), encoding="utf-8")
    write_page(options.out / PAGE_FILE, options.target, options.signature, results)
    print(options.out / PAGE_FILE)
