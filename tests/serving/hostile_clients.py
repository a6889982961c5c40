"""Clients that mean harm, each a function that does one thing once. No TensorFlow: they are processes of their own."""

import contextlib
import multiprocessing
import random
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event

import grpc

from protos.predict_pb2 import DT_FLOAT, DT_INT64, DT_STRING, PredictRequest

_PREDICT = "/tensorflow.serving.PredictionService/Predict"
_REST = "/v1/models/scaler:predict"
# How HTTP/2, and so gRPC, begins.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
LARGE = 100 * 1000 * 1000
# What a server may answer to a request that is wrong; UNKNOWN would be an exception that nobody caught, INTERNAL is
# what gRPC itself says to bytes that are no message.
_REFUSALS = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
}


@dataclass
class Target:
    """The server's ports, and chance."""

    grpc_port: int
    rest_port: int
    chance: random.Random
    held: list[socket.socket] = field(default_factory=list)
    channel: grpc.Channel | None = None

    def connect(self, port: int) -> socket.socket:
        """A bare connection."""
        return socket.create_connection(("127.0.0.1", port), timeout=10)

    def predict(self, message: bytes, timeout: float = 10.0) -> grpc.StatusCode:
        """Sends bytes as a PredictRequest; returns the status of the answer."""
        if self.channel is None:
            options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
            self.channel = grpc.insecure_channel(f"127.0.0.1:{self.grpc_port}", options=options)
        call = self.channel.unary_unary(_PREDICT, lambda raw: raw, lambda raw: raw)
        try:
            call(message, timeout=timeout)
        except grpc.RpcError as error:
            return error.code()
        return grpc.StatusCode.OK


Attack = Callable[[Target], None]


def attack_while(
    attack: Attack,
    ports: tuple[int, int],
    rate: float,
    active: Event,
    done: Event,
    resting: Event,
    count: "Synchronized[int]",
    failure: "multiprocessing.Queue[str]",
) -> None:
    """The attackers' process: repeats an attack at most `rate` times a second while `active` is set, and then rests."""
    target = Target(*ports, random.Random(1))
    try:
        while not done.is_set():
            if active.is_set():
                resting.clear()
                began = time.monotonic()
                attack(target)
                count.value += 1
                time.sleep(max(0.0, 1 / rate - (time.monotonic() - began)))
            else:
                resting.set()
                time.sleep(0.02)
    except Exception as error:
        failure.put(f"{type(error).__name__}: {error}")
    failure.put("")


def random_bytes(target: Target) -> None:
    """Noise on both ports, some of it with the right beginning."""
    for port in (target.grpc_port, target.rest_port):
        start = target.chance.choice(
            [b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"POST " + _REST.encode() + b" HTTP/1.1\r\n"]
        )
        with contextlib.suppress(OSError), target.connect(port) as client:
            client.settimeout(0.2)
            client.sendall(start + target.chance.randbytes(target.chance.randrange(1, 4096)))
            client.recv(1 << 16)


def fuzzed_predict(target: Target) -> None:
    """A valid PredictRequest with one thing wrong."""
    code = target.predict(fuzzed(target.chance))
    if code not in _REFUSALS:
        raise AssertionError(f"a fuzzed PredictRequest was answered with {code}")


def fuzzed(chance: random.Random) -> bytes:
    """The bytes of a PredictRequest with something wrong in it."""
    request = PredictRequest()
    request.model_spec.name = "scaler"
    x = request.inputs["x"]
    x.dtype = DT_FLOAT
    x.float_val.extend([1.0, 2.0])
    for size in (1, 2):
        x.tensor_shape.dim.add(size=size)
    chance.choice(_MUTATIONS)(request, chance)
    message = request.SerializeToString()
    if chance.random() < 0.3:
        place = chance.randrange(len(message))
        message = chance.choice(
            [
                message[:place],
                message[:place] + chance.randbytes(chance.randrange(1, 9)) + message[place:],
                message[:place] + chance.randbytes(1) + message[place + 1 :],
                message * 3,
            ]
        )
    return message


def _wrong_type(request: PredictRequest, chance: random.Random) -> None:
    request.inputs["x"].dtype = chance.choice([0, DT_STRING, DT_INT64, 19, 20, 21, 99, 101, -1])  # type: ignore[assignment]


def _wrong_sizes(request: PredictRequest, chance: random.Random) -> None:
    for dim in request.inputs["x"].tensor_shape.dim:
        dim.size = chance.choice([-1, 0, 2, -(1 << 63), (1 << 63) - 1, 1 << 31, 1 << 22])


def _many_dimensions(request: PredictRequest, chance: random.Random) -> None:
    for _ in range(chance.choice([1, 32, 254, 255, 10_000])):
        request.inputs["x"].tensor_shape.dim.add(size=1)


def _wrong_count(request: PredictRequest, chance: random.Random) -> None:
    request.inputs["x"].float_val.extend([0.0] * chance.choice([1, 1_000, 100_000]))


def _wrong_content(request: PredictRequest, chance: random.Random) -> None:
    request.inputs["x"].tensor_content = chance.randbytes(chance.choice([1, 7, 8, 9, 10_000]))


def _wrong_names(request: PredictRequest, chance: random.Random) -> None:
    name = chance.choice(["", "x" * 1_000_000, "é\0\n", "../../etc/passwd"])
    spec = request.model_spec
    chance.choice(
        [
            lambda: spec.MergeFrom(type(spec)(name=name)),
            lambda: spec.MergeFrom(type(spec)(signature_name=name)),
            lambda: spec.MergeFrom(type(spec)(version_label=name)),
            lambda: request.output_filter.extend([name] * 3),
            lambda: request.inputs[name].CopyFrom(request.inputs["x"]),
        ]
    )()


def _wrong_version(request: PredictRequest, chance: random.Random) -> None:
    request.model_spec.version.value = chance.choice([-1, 0, 2, (1 << 63) - 1, -(1 << 63)])


def _giant_strings(request: PredictRequest, chance: random.Random) -> None:
    request.model_spec.signature_name = "greet"
    request.inputs.clear()
    name = request.inputs["name"]
    name.dtype = DT_STRING
    name.tensor_shape.dim.add(size=chance.choice([1, 2, 1 << 22]))
    name.string_val.append(b"x" * chance.choice([0, 1, 100_000, 1_000_000]))


def _many_inputs(request: PredictRequest, chance: random.Random) -> None:
    for number in range(chance.choice([1, 100, 2_000])):
        request.inputs[f"input {number}"].dtype = DT_FLOAT


_MUTATIONS: list[Callable[[PredictRequest, random.Random], None]] = [
    _wrong_type,
    _wrong_sizes,
    _many_dimensions,
    _wrong_count,
    _wrong_content,
    _wrong_names,
    _wrong_version,
    _giant_strings,
    _many_inputs,
]


def fuzzed_json(target: Target) -> None:
    """A valid body over REST with something wrong in it."""
    body = b'{"signature_name": "serving_default", "instances": [{"x": [1, 2.5], "shift": 0}]}'
    place = target.chance.randrange(len(body))
    wrong = target.chance.choice(
        [
            body[:place],
            body[:place] + target.chance.randbytes(3) + body[place:],
            body.replace(b"[1, 2.5]", b"[" * target.chance.choice([3, 100, 100_000])),
            body.replace(b"2.5", target.chance.choice([b"1e999", b"NaN", b'"x"', b"{}", b"null", b"9" * 5_000])),
            body.replace(b"[1, 2.5]", b"[" + b"1," * 100_000 + b"1]"),
            body.replace(b'"x"', b'"' + b"x" * 100_000 + b'"'),
        ]
    )
    status = _post(target, wrong)
    if status not in (200, 400, 404, 429):
        raise AssertionError(f"a fuzzed body was answered with {status}")


def _post(target: Target, body: bytes) -> int:
    with target.connect(target.rest_port) as client:
        head = f"POST {_REST} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body)
        return int(client.recv(1 << 16).split(b" ", 2)[1])


def large_bodies(target: Target) -> None:
    """100 MB on both ports: with its length said before, in chunks, and as a message of gRPC."""
    piece = b" " * 1_000_000
    for framing in (f"Content-Length: {LARGE}", "Transfer-Encoding: chunked"):
        with target.connect(target.rest_port) as client:
            client.sendall(f"POST {_REST} HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n".encode())
            # The server answers and closes the connection before it has all.
            with contextlib.suppress(OSError):
                for _ in range(LARGE // len(piece)):
                    client.sendall(piece if "Length" in framing else b"f4240\r\n" + piece + b"\r\n")
            with contextlib.suppress(OSError):
                answer = client.recv(1 << 16)
                if b" 413 " not in answer.split(b"\r\n")[0]:
                    raise AssertionError(f"100 MB were answered with {answer[:100]!r}")
    request = PredictRequest()
    request.model_spec.name = "scaler"
    request.inputs["x"].tensor_content = bytes(LARGE)
    code = target.predict(request.SerializeToString(), timeout=30)
    if code != grpc.StatusCode.RESOURCE_EXHAUSTED:
        raise AssertionError(f"a message of 100 MB was answered with {code}")


def vanishing(target: Target) -> None:
    """Leaves in the middle of a request, right after one, and after a millisecond of waiting."""
    body = b'{"inputs": {"x": [[1, 2]], "shift": [0]}}'
    head = f"POST {_REST} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    for sent in (head, head + body[:10], head + body):
        with target.connect(target.rest_port) as client:
            client.sendall(sent)
    with target.connect(target.grpc_port) as client:
        client.sendall(_PREFACE + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 64, 1, 4, 0, 0]))
    request = PredictRequest()
    request.model_spec.name = "scaler"
    x = request.inputs["x"]
    x.dtype = DT_FLOAT
    x.tensor_shape.dim.add(size=1_000)
    x.tensor_shape.dim.add(size=2)
    x.tensor_content = bytes(1_000 * 2 * 4)
    target.predict(request.SerializeToString(), timeout=0.001)


def slow(target: Target) -> None:
    """Fifty clients on each port that send one byte a second: of the headers, of the body, of gRPC's preface."""
    if not target.held:
        head = f"POST {_REST} HTTP/1.1\r\nHost: x\r\n"
        for number in range(50):
            target.held.append(target.connect(target.rest_port))
            target.held[-1].sendall(f"{head}Content-Length: 1000\r\n\r\n".encode() if number % 2 else head.encode())
            target.held.append(target.connect(target.grpc_port))
    for client in target.held:
        with contextlib.suppress(OSError):
            client.send(b"P")
    time.sleep(1.0)


def idle_connections(target: Target, port: int, count: int) -> int:
    """Opens connections that stay silent, and returns how many the server has taken."""
    while len(target.held) < count:
        target.held.append(target.connect(port))
    for client in target.held[-100:]:
        client.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            if not client.recv(1):
                return len(target.held) - 100
    return len(target.held)
