"""Sends requests to a Predict target, open loop or closed loop, and records what became of each."""

import gc
import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import grpc
import numpy as np

from protos.predict_pb2 import PredictResponse
from serving.client_conversation import Method

# What an answer is called that came, but not with as many products as were asked for.
SHORT_ANSWER = "SHORT_ANSWER"
OK = "OK"


@dataclass(frozen=True)
class Load:
    """Requests in the order of their intended times; all times in seconds after the first one.

    Args:
        intended: when each was due, [N].
        sent: when it was sent, [N].
        done: when it was answered or refused, [N].
        outcomes: gRPC status, `OK` or `SHORT_ANSWER`, [N].
        versions: the model version that answered, 0 for those that were not, [N].
        cpu_seconds: processor time of this process.
    """

    intended: np.ndarray
    sent: np.ndarray
    done: np.ndarray
    outcomes: np.ndarray
    versions: np.ndarray
    cpu_seconds: float

    @property
    def latencies(self) -> np.ndarray:
        """Seconds from the intended time to the answer: what waited for a sender counts too."""
        return self.done - self.intended


class Asks(Protocol):
    """What a load is driven through."""

    def send(self, number: int, waited: float) -> tuple[str, int]:
        """Outcome and version of request `number`, due `waited` seconds ago."""


class Sender:
    """Sends ready-made requests over a few channels, one after the other and from the first again."""

    def __init__(
        self, target: str, requests: Sequence[bytes], timeout: float, channels: int = 2, products: int | None = None
    ) -> None:
        """Connects.

        Args:
            target: HOST:PORT.
            requests: PredictRequests as bytes.
            timeout: seconds from the intended time to DEADLINE_EXCEEDED.
            channels: connections; gRPC writes one connection's requests one after the other.
            products: how many ids each answer must have; None = answers are not looked at.
        """
        self._requests = requests
        self._timeout = timeout
        self._products = products
        # A setting of its own for each, or gRPC would let them share one connection.
        self._channels = [
            grpc.insecure_channel(target, [("grpc.max_receive_message_length", -1), ("tandem.bench.channel", number)])
            for number in range(channels)
        ]
        self._calls = [channel.unary_unary(Method.PREDICT.path, None, None) for channel in self._channels]

    def send(self, number: int, waited: float) -> tuple[str, int]:
        """Outcome and version of request `number`, due `waited` seconds ago."""
        call = self._calls[number % len(self._calls)]
        try:
            answer = call(self._requests[number % len(self._requests)], timeout=max(self._timeout - waited, 0.001))
        except grpc.RpcError as error:
            return error.code().name, 0
        response = PredictResponse.FromString(answer)
        version = response.model_spec.version.value
        if self._products is not None and sum(map(bool, response.outputs["item_ids"].string_val)) < self._products:
            return SHORT_ANSWER, version
        return OK, version

    def close(self) -> None:
        """Ends the connections."""
        for channel in self._channels:
            channel.close()


def arrivals(rate: float, seconds: float, poisson: bool, seed: int = 1) -> np.ndarray:
    """Intended times [N] of a load of `rate` requests a second: evenly spaced, or as independent shoppers come."""
    if not poisson:
        return np.arange(round(rate * seconds)) / rate
    gaps = np.random.default_rng(seed).exponential(1 / rate, size=round(rate * seconds * 1.5) + 20)
    times = np.cumsum(gaps) - gaps[0]
    return times[times < seconds]


def open_loop(sender: Asks, times: np.ndarray, callers: int) -> Load:
    """Sends at the intended times, whether or not earlier requests have been answered.

    Latency counts from the intended time, also where all callers wait for answers and a request is sent late: a slow
    server can't make the load lighter ("coordinated omission", Tene 2013).

    Args:
        times: seconds after the start.
        callers: threads, so the largest number of requests under way.
    """
    return _Drive(sender, iter(times.tolist()), callers).run(threads=1)


def closed_loop(sender: Asks, callers: int, seconds: float) -> Load:
    """Each caller sends its next request as soon as it has the answer to the last."""
    end = time.perf_counter() + seconds
    at_once = itertools.takewhile(lambda _: time.perf_counter() < end, itertools.repeat(None))
    return _Drive(sender, at_once, callers).run(threads=callers)


class _Drive:
    """Threads that take turns: one waits for the next intended time, and hands on the turn before it sends.

    There are as many as requests have been under way at once, and one more. Threads with blocking calls: measured on
    two shared cores at 300 requests/s they took 0.28 to 0.33 ms of a core a request, grpc.aio 0.34 to 0.50, futures
    0.45, whose callbacks pass through one more thread.
    """

    def __init__(self, sender: Asks, dues: Iterator[float | None], callers: int) -> None:
        self._sender = sender
        # Intended times in seconds after the start; None = at once.
        self._dues = enumerate(dues)
        self._callers = callers
        self._turn = threading.Lock()
        self._counting = threading.Lock()
        # Threads that are not sending.
        self._free = 0
        self._threads: list[threading.Thread] = []
        self._records: list[tuple[float, float, float, str, int]] = []
        self._began = 0.0

    def run(self, threads: int) -> Load:
        """Sends everything, starting with so many threads."""
        with _no_garbage_collection():
            cpu, self._began = time.process_time(), time.perf_counter()
            for _ in range(threads):
                self._add_thread()
            # It grows while it is walked along; who adds a thread ends after that.
            for thread in self._threads:
                thread.join()
            cpu = time.process_time() - cpu
        records = sorted(self._records)
        due, sent, done, outcomes, versions = zip(*records, strict=True) if records else ((), (), (), (), ())
        return Load(
            np.array(due, float),
            np.array(sent, float),
            np.array(done, float),
            np.array(outcomes, str),
            np.array(versions, np.int64),
            cpu,
        )

    def _work(self) -> None:
        while True:
            with self._turn:
                taken = next(self._dues, None)
                if taken is None:
                    return
                number, due = taken
                if due is None:
                    due = self._now()
                elif (ahead := due - self._now()) > 0:
                    time.sleep(ahead)
                self._leave()
            sent = self._now()
            outcome, version = self._sender.send(number, sent - due)
            self._records.append((due, sent, self._now(), outcome, version))
            with self._counting:
                self._free += 1

    def _leave(self) -> None:
        """Goes to send; somebody must be there for the next turn."""
        with self._counting:
            self._free -= 1
            alone = not self._free
        if alone:
            self._add_thread()

    def _add_thread(self) -> None:
        """One more, if there may be."""
        with self._counting:
            if len(self._threads) == self._callers:
                return
            self._free += 1
            thread = threading.Thread(target=self._work, daemon=True)
            self._threads.append(thread)
            thread.start()

    def _now(self) -> float:
        return time.perf_counter() - self._began


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """With TensorFlow imported (a run's shoppers are read with it) one collection stops all threads for 0.2 s."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
