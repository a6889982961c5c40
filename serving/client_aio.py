"""The client for asyncio: the questions and answers of serving/client.py, awaited."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import cached_property
from typing import Concatenate, ParamSpec, TypeVar

from google.protobuf.message import Message

from serving.client import ModelClient, described_as
from serving.client_conversation import Call, Conversation, Pause, RecommenderError, Way
from serving.client_grpc import AsyncGrpcTransport
from serving.client_questions import Questions
from serving.client_rest import RestTransport

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _asked(
    question: Callable[Concatenate[Questions, _P], Conversation[_T]],
) -> Callable[Concatenate["AsyncRecommenderClient", _P], Awaitable[_T]]:
    @described_as(question)
    async def ask(self: "AsyncRecommenderClient", /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await self._run(question(self._questions, *args, **kwargs))

    return ask


class AsyncRecommenderClient(ModelClient):
    """A connection to one model for the tasks of one event loop.

    async with AsyncRecommenderClient("localhost:8500", timeout=0.5) as client:
        (await client.recommend(["sku-1", "sku-2"], k=20)).item_ids
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

    async def close(self) -> None:
        """Ends the connection."""
        if "_grpc" in vars(self):
            await self._grpc.close()
        if "_rest" in vars(self):
            self._rest.close()

    async def __aenter__(self) -> "AsyncRecommenderClient":
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    # Made at the first call: a channel belongs to the event loop that runs then.
    @cached_property
    def _grpc(self) -> AsyncGrpcTransport:
        return AsyncGrpcTransport(str(self._options.target), self._options)

    @cached_property
    def _rest(self) -> RestTransport:
        return RestTransport(str(self._options.rest_target), self._options)

    async def _run(self, conversation: Conversation[_T]) -> _T:
        try:
            step = next(conversation)
            while True:
                try:
                    answer = await self._do(step)
                except RecommenderError as error:
                    step = conversation.throw(error)
                else:
                    step = conversation.send(answer)
        except StopIteration as stop:
            return stop.value

    async def _do(self, step: Call | Pause) -> Message | None:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return None
        if step.way is Way.REST:
            return await asyncio.to_thread(self._rest.send, step)
        return await self._grpc.send(step)
