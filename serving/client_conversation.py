"""What a client says to a server, whatever carries it: calls, second tries, and REST where gRPC can't be reached.

A conversation is a generator. It yields a `Call` or a `Pause`; whoever runs it sends back the response, or throws the
RecommenderError that the call got. So the synchronous and the asyncio client share every rule.
"""

import itertools
import logging
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias, TypeVar

import grpc
from google.protobuf.message import Message

from protos.predict_pb2 import GetModelMetadataResponse, GetModelStatusResponse, PredictResponse
from serving.client_options import ClientOptions
from serving.client_signature import Learned

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")
# After falling back to REST, gRPC is tried again this often (seconds).
_GRPC_AGAIN_SECONDS = 30.0
# Refusals of work that was not begun: TensorFlow Serving's (gRPC C++) and the embedded server's (gRPC Python). Other
# RESOURCE_EXHAUSTED, such as a message that is too large, would come again.
_OVERLOADED = ("Server Threadpool Exhausted", "Concurrent RPC limit exceeded")


class RecommenderError(RuntimeError):
    """The server's refusal, or its silence: the gRPC status code and a sentence."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code


class Method(Enum):
    """The RPCs that a client uses: path and type of the response."""

    PREDICT = ("/tensorflow.serving.PredictionService/Predict", PredictResponse)
    METADATA = ("/tensorflow.serving.PredictionService/GetModelMetadata", GetModelMetadataResponse)
    STATUS = ("/tensorflow.serving.ModelService/GetModelStatus", GetModelStatusResponse)

    def __init__(self, path: str, response: type[Message]) -> None:
        self.path = path
        self.response = response


class Way(Enum):
    """What carries a call."""

    GRPC = "gRPC"
    REST = "REST"


@dataclass(frozen=True)
class Call:
    """One request on its way."""

    method: Method
    request: Message
    # `time.monotonic()` by which the response must be there.
    deadline: float
    # What is known of the model; REST's answers name neither their version nor their types.
    learned: Learned | None = None
    way: Way = Way.GRPC

    @property
    def seconds_left(self) -> float:
        """Time until the deadline, never quite 0: a transport then says DEADLINE_EXCEEDED itself."""
        return max(self.deadline - time.monotonic(), 0.001)

    def failed(self, code: grpc.StatusCode, details: str | None, address: str) -> RecommenderError:
        """The error that this call ends with."""
        return RecommenderError(code, f"{self.method.path.rpartition('/')[2]} at {address}: {details}")


@dataclass(frozen=True)
class Pause:
    """Time to let pass."""

    seconds: float


Conversation: TypeAlias = Generator[Call | Pause, Any, _T]


class Ways:
    """Chooses what carries each call, and tries again what may be tried again.

    The loop is our own, not gRPC's retry policy (a service config): that one sees status codes alone, and of
    RESOURCE_EXHAUSTED only a full thread pool may be asked again; it knows no other way to fall back to, and REST
    needs the same rule. All three RPCs only read, so that asking twice is safe.
    """

    def __init__(self, options: ClientOptions) -> None:
        self._options = options
        # `time.monotonic()` until which gRPC is taken for unreachable; 0.0 = it is not.
        self._rest_until = 0.0
        self._lock = threading.Lock()

    @property
    def now(self) -> Way:
        """What carries the next call."""
        if self._options.target is None or time.monotonic() < self._rest_until:
            return Way.REST
        return Way.GRPC

    def ask(self, method: Method, request: Message, deadline: float, learned: Learned | None = None) -> Conversation:
        """The response of a call.

        Raises:
            RecommenderError: refused, or not answered in time.
        """
        unreachable: RecommenderError | None = None
        if self.now is Way.GRPC:
            try:
                response = yield from self._tried(Call(method, request, deadline, learned))
            except RecommenderError as error:
                if error.code is not grpc.StatusCode.UNAVAILABLE or self._options.rest_target is None:
                    raise
                unreachable = error
            else:
                self._grpc_answered()
                return response
        rest_answered = True
        try:
            return (yield from self._tried(Call(method, request, deadline, learned, Way.REST)))
        except RecommenderError as error:
            rest_answered = error.code is not grpc.StatusCode.UNAVAILABLE
            raise
        finally:
            self._rest_was_asked(rest_answered, unreachable)

    def _tried(self, call: Call) -> Conversation:
        for tried in itertools.count(1):
            try:
                return (yield call)
            except RecommenderError as error:
                # gRPC that was not reachable a while ago is only looked at.
                last = 1 if self._rest_until and call.way is Way.GRPC else self._options.retries.attempts
                seconds = self._options.retries.pause(tried)
                if tried >= last or not _may_be_asked_again(error) or time.monotonic() + seconds >= call.deadline:
                    raise
            yield Pause(seconds)
        raise AssertionError("unreachable")

    def _rest_was_asked(self, answered: bool, unreachable: RecommenderError | None) -> None:
        with self._lock:
            if not answered:
                self._rest_until = 0.0
            elif unreachable is not None:
                if not self._rest_until:
                    _LOG.warning("%s; asking %s over REST instead", unreachable, self._options.rest_target)
                self._rest_until = time.monotonic() + _GRPC_AGAIN_SECONDS

    def _grpc_answered(self) -> None:
        if self._rest_until:
            with self._lock:
                _LOG.warning("gRPC at %s answers again; REST is no longer used", self._options.target)
                self._rest_until = 0.0


def _may_be_asked_again(error: RecommenderError) -> bool:
    if error.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return any(words in str(error) for words in _OVERLOADED)
    return error.code is grpc.StatusCode.UNAVAILABLE
