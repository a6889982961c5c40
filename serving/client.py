"""Asks a model server, embedded or TensorFlow Serving, for recommendations; needs grpc, but no TensorFlow."""

import inspect
import time
from collections.abc import Callable
from functools import cached_property, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, get_args

from google.protobuf.message import Message

from serving.client_answers import Recommendations
from serving.client_conversation import Call, Conversation, Pause, RecommenderError, Way
from serving.client_filters import Filter, ListRequest, Page
from serving.client_grpc import GrpcTransport
from serving.client_held import HeldShopper
from serving.client_options import DEFAULT_RETRIES, ClientOptions, Retries, Tls
from serving.client_query import Context, Query, Shopper
from serving.client_questions import Questions
from serving.client_rest import RestTransport

__all__ = [
    "Context",
    "Filter",
    "HeldShopper",
    "ListRequest",
    "Page",
    "Query",
    "Recommendations",
    "RecommenderClient",
    "RecommenderError",
    "Retries",
    "Shopper",
    "Tls",
]

_P = ParamSpec("_P")
_T = TypeVar("_T")
_F = TypeVar("_F", bound=Callable[..., Any])


class ModelClient:
    """What the synchronous and the asyncio client are made of: where they connect to, and what they may ask."""

    def __init__(
        self,
        target: str | None = None,
        timeout: float = 5.0,
        model: str = "recommender",
        version: int | None = None,
        max_message_bytes: int = 64 << 20,
        *,
        version_label: str | None = None,
        tls: Tls | None = None,
        retries: Retries = DEFAULT_RETRIES,
        rest_target: str | None = None,
    ) -> None:
        """Connects at the first request.

        Args:
            target: HOST:PORT for gRPC; None = REST alone.
            timeout: seconds that a call may take in all; every request carries what is left of it as its deadline.
            model: name of the model on the server.
            version: ask this version only; None = the newest.
            max_message_bytes: largest answer taken (gRPC's own limit of 4 MB is small for large batches).
            version_label: ask the version that carries this label, such as "canary".
            tls: certificates; None = no encryption.
            retries: how often a request that was not begun (UNAVAILABLE, or all threads of the server busy) is sent
                again, within `timeout`.
            rest_target: HOST:PORT, or a URL with a path in front of `/v1`, for TensorFlow Serving's REST API. It is
                asked where gRPC at `target` stays UNAVAILABLE; the log says so once. HOST:PORT means https where
                `tls` is given, http where not. Over REST a new version is noticed within 5 seconds.

        Raises:
            ValueError: arguments that exclude each other, or an address or certificate that can't be read.
        """
        self._options = ClientOptions(
            target, rest_target, timeout, model, version, version_label, tls, retries, max_message_bytes
        )
        self._questions = Questions(self._options)

    @property
    def target(self) -> str:
        """Where requests go first."""
        return self._options.address


def described_as(question: Callable[..., Conversation[Any]]) -> Callable[[_F], _F]:
    """Gives a method the name, text and signature of the question it asks, with the answer in the generator's place."""

    def describe(ask: _F) -> _F:
        signature = inspect.signature(question)
        answer = get_args(signature.return_annotation)[-1]
        wraps(question)(ask).__signature__ = signature.replace(return_annotation=answer)  # type: ignore[attr-defined]
        return ask

    return describe


def _asked(
    question: Callable[Concatenate[Questions, _P], Conversation[_T]],
) -> Callable[Concatenate["RecommenderClient", _P], _T]:
    @described_as(question)
    def ask(self: "RecommenderClient", /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return self._run(question(self._questions, *args, **kwargs))

    return ask


class RecommenderClient(ModelClient):
    """A connection to one model. Threads may share it.

    with RecommenderClient("localhost:8500", timeout=0.5) as client:
        client.recommend(["sku-1", "sku-2"], k=20).item_ids
    """

    recommend = _asked(Questions.recommend)
    recommend_many = _asked(Questions.recommend_many)
    recommend_lists = _asked(Questions.recommend_lists)
    retrieve = _asked(Questions.retrieve)
    rank = _asked(Questions.rank)
    similar_items = _asked(Questions.similar_items)
    complementary_items = _asked(Questions.complementary_items)
    embed_user = _asked(Questions.embed_user)
    hold = _asked(Questions.hold)
    prepare = _asked(Questions.prepare)
    wait_until_ready = _asked(Questions.wait_until_ready)

    def close(self) -> None:
        """Ends the connection."""
        for name in ("_grpc", "_rest"):
            if (opened := vars(self).get(name)) is not None:
                opened.close()

    def __enter__(self) -> "RecommenderClient":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @cached_property
    def _grpc(self) -> GrpcTransport:
        return GrpcTransport(str(self._options.target), self._options)

    @cached_property
    def _rest(self) -> RestTransport:
        return RestTransport(str(self._options.rest_target), self._options)

    def _run(self, conversation: Conversation[_T]) -> _T:
        try:
            step = next(conversation)
            while True:
                try:
                    answer = self._do(step)
                except RecommenderError as error:
                    step = conversation.throw(error)
                else:
                    step = conversation.send(answer)
        except StopIteration as stop:
            return stop.value

    def _do(self, step: Call | Pause) -> Message | None:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        return (self._rest if step.way is Way.REST else self._grpc).send(step)
