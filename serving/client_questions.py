"""The questions that a recommender answers, each as a conversation that any transport can carry."""

import time
from collections.abc import Sequence

import grpc

from protos.predict_pb2 import (
    GetModelMetadataRequest,
    GetModelStatusRequest,
    GetModelStatusResponse,
    ModelVersionStatus,
    PredictRequest,
    PredictResponse,
)
from serving.client_answers import Recommendations, read_lists, read_page, read_vector
from serving.client_conversation import Conversation, Method, Pause, RecommenderError, Way, Ways
from serving.client_filters import Filter, ListRequest, Page
from serving.client_held import HeldShopper, read_held
from serving.client_options import ClientOptions
from serving.client_query import NO_CONTEXT, Context, Query, Shopper
from serving.client_signature import SIGNATURE_DEF, Learned, learned_from

_POLL_SECONDS = 0.1
# Over REST a request names the version it was built for. This often (seconds) it is asked which one is the newest.
_REST_VERSION_SECONDS = 5.0
# Answers that may mean: the model isn't the one whose signatures were learned.
_MISFITS = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND)


class Questions:
    """What can be asked of one model. A new signature is one method here, and one line in each client."""

    def __init__(self, options: ClientOptions) -> None:
        self._options = options
        self._spec = options.spec()
        self._ways = Ways(options)
        # What the model takes (its shapes say L, K, C, X) and the version that said so; learned at the first request.
        self._learned: Learned | None = None

    def recommend(
        self,
        history: Sequence[str],
        k: int = 20,
        *,
        event_types: Sequence[str] | None = None,
        timestamps: Sequence[int] | None = None,
        context: Context = NO_CONTEXT,
        exclude: Sequence[str] = (),
        filter: Filter | None = None,
        blend: float | None = None,
        target_weights: Sequence[float] | None = None,
        held: HeldShopper | None = None,
    ) -> Conversation[Recommendations]:
        """The `k` products this shopper is most likely to want next.

        Args:
            history: product ids in time order, newest last; only the newest that the model looks at are sent. May be
                empty (a new visitor), and may hold ids that the model doesn't know.
            k: how many; at most the K the model was exported with.
            event_types: what was done with each product of the history ("view", "add_to_cart", "purchase", …).
            timestamps: seconds since 1970 (UTC) of each product of the history.
            context: where and when the shopper is.
            exclude: product ids to leave out of the answer.
            filter: what products must be. The answer is shorter than `k` only where fewer products pass.
            blend: from -1, without the ranker's score, over 0, as the head was trained, to 1, without the retrieval's.
            target_weights: what each target of the model is worth, at least 0, in the order of `targets` in
                `<version>/assets.extra/tandem.json`; zeros = not given.
            held: what `hold` answered for the same history and context. Only the version that made it reads it; where
                another answers, the history is encoded anew.

        Raises:
            ValueError: an argument doesn't fit the model.
            RecommenderError: the server answers with an error or not in time.
        """
        shopper = Shopper(history, event_types, timestamps, context, exclude, blend, target_weights, held)
        query = Query([shopper], k, restriction=filter)
        return (yield from self._one_list(_filtered("recommend", filter), query))

    def recommend_many(
        self, shoppers: Sequence[Shopper], k: int = 20, *, filter: Filter | None = None
    ) -> Conversation[list[Recommendations]]:
        """As `recommend`, for several shoppers in one request; answers in their order. Errors as for `recommend`."""
        if not shoppers:
            return []
        query = Query(shoppers, k, restriction=filter)
        return read_lists((yield from self._predict(_filtered("recommend", filter), query)), k)

    def recommend_lists(
        self,
        history: Sequence[str],
        lists: Sequence[ListRequest],
        k: int | None = None,
        *,
        event_types: Sequence[str] | None = None,
        timestamps: Sequence[int] | None = None,
        context: Context = NO_CONTEXT,
        exclude: Sequence[str] = (),
        blend: float | None = None,
        target_weights: Sequence[float] | None = None,
        held: HeldShopper | None = None,
    ) -> Conversation[dict[str, Recommendations]]:
        """Several lists for one page, by name, in the order asked; a product stands in the first that has room for it.

        Args:
            history: as for `recommend`, and so are those that follow `k`.
            lists: which lists, the most important first.
            k: how many products of each; None = as many as the model was exported with.

        Raises:
            ValueError: as for `recommend`; or no list, more than the model was exported with, or two of one name.
            RecommenderError: as for `recommend`.
        """
        shopper = Shopper(history, event_types, timestamps, context, exclude, blend, target_weights, held)
        response = yield from self._predict("recommend_lists", Query([shopper], k, restriction=Page(lists)))
        return read_page(response, [wanted.name for wanted in lists], k)

    def retrieve(
        self,
        history: Sequence[str],
        *,
        event_types: Sequence[str] | None = None,
        timestamps: Sequence[int] | None = None,
        context: Context = NO_CONTEXT,
        exclude: Sequence[str] = (),
        filter: Filter | None = None,
        held: HeldShopper | None = None,
    ) -> Conversation[Recommendations]:
        """The candidates of the first stage. Arguments and errors as for `recommend`."""
        shopper = Shopper(history, event_types, timestamps, context, exclude, held=held)
        return (yield from self._one_list(_filtered("retrieve", filter), Query([shopper], restriction=filter)))

    def rank(
        self,
        history: Sequence[str],
        candidates: Sequence[str],
        *,
        event_types: Sequence[str] | None = None,
        timestamps: Sequence[int] | None = None,
        context: Context = NO_CONTEXT,
        exclude: Sequence[str] = (),
        blend: float | None = None,
        target_weights: Sequence[float] | None = None,
        held: HeldShopper | None = None,
    ) -> Conversation[Recommendations]:
        """These candidates, best first. Arguments and errors as for `recommend`."""
        shopper = Shopper(history, event_types, timestamps, context, exclude, blend, target_weights, held)
        return (yield from self._one_list("rank", Query([shopper], candidates=candidates)))

    def similar_items(self, item_id: str, k: int = 20, *, history: Sequence[str] = ()) -> Conversation[Recommendations]:
        """The `k` products most like one product, with a history blended in if given. Errors as for `recommend`."""
        return (yield from self._one_list("similar_items", _beside(item_id, k, history)))

    def complementary_items(
        self, item_id: str, k: int = 20, *, history: Sequence[str] = ()
    ) -> Conversation[Recommendations]:
        """The `k` products of other categories that go with one product. As `similar_items`.

        Raises:
            ValueError: as for `recommend`; or the model has no such signature, because its catalogue has no categories.
        """
        return (yield from self._one_list("complementary_items", _beside(item_id, k, history)))

    def embed_user(
        self,
        history: Sequence[str],
        *,
        event_types: Sequence[str] | None = None,
        timestamps: Sequence[int] | None = None,
        context: Context = NO_CONTEXT,
    ) -> Conversation[tuple[float, ...]]:
        """The shopper as a vector of the retrieval model, [D]. Arguments and errors as for `recommend`."""
        query = Query([Shopper(history, event_types, timestamps, context)])
        return read_vector((yield from self._predict("embed_user", query)), "embedding")

    def hold(
        self,
        history: Sequence[str],
        *,
        event_types: Sequence[str] | None = None,
        timestamps: Sequence[int] | None = None,
        context: Context = NO_CONTEXT,
    ) -> Conversation[HeldShopper]:
        """What both stages make of the shopper: given back as `held`, with the same history and context, it spares
        requests both encoders, as long as the version that made it answers. Arguments and errors as for `recommend`.

        Raises:
            ValueError: as for `recommend`; or the model answers no state.
        """
        query = Query([Shopper(history, event_types, timestamps, context)])
        return read_held((yield from self._predict("embed_user", query)))

    def prepare(self, signature_name: str, query: Query) -> Conversation[PredictRequest]:
        """The message that a question would send, for those who send it themselves, such as a load generator.

        Raises:
            ValueError: the model has no such signature, or the query doesn't fit it.
            RecommenderError: as for `recommend`.
        """
        learned = yield from self._learn(time.monotonic() + self._options.timeout)
        return self._request(signature_name, query, learned)

    def wait_until_ready(self, timeout: float = 60.0) -> Conversation[int]:
        """Returns the model's newest available version, as soon as there is one.

        Raises:
            RecommenderError: DEADLINE_EXCEEDED after `timeout` seconds, with what the server last said.
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                request = GetModelStatusRequest(model_spec=self._spec)
                response: GetModelStatusResponse = yield from self._ways.ask(Method.STATUS, request, deadline)
                versions = response.model_version_status
                ready = [entry.version for entry in versions if entry.state == ModelVersionStatus.AVAILABLE]
                if ready:
                    return max(ready)
                said = "; ".join(_describe(entry) for entry in versions)
            except RecommenderError as error:
                said = str(error)
            if time.monotonic() + _POLL_SECONDS > deadline:
                raise RecommenderError(
                    grpc.StatusCode.DEADLINE_EXCEEDED,
                    f"model {self._spec.name} at {self._options.address} was not ready after {timeout:g} s: {said}",
                )
            yield Pause(_POLL_SECONDS)

    def _one_list(self, signature_name: str, query: Query) -> Conversation[Recommendations]:
        return read_lists((yield from self._predict(signature_name, query)), query.k)[0]

    def _predict(self, signature_name: str, query: Query) -> Conversation[PredictResponse]:
        return (yield from self._predict_by(time.monotonic() + self._options.timeout, signature_name, query))

    def _predict_by(self, deadline: float, signature_name: str, query: Query) -> Conversation[PredictResponse]:
        learned = self._known() or (yield from self._learn(deadline))
        try:
            response = yield from self._ask(signature_name, query, learned, deadline)
        except (RecommenderError, ValueError) as error:
            if isinstance(error, RecommenderError) and error.code not in _MISFITS:
                raise
            # A new version with other shapes may have been swapped in since.
            newer = yield from self._learn(deadline)
            if newer.version == learned.version:
                raise
            learned, response = newer, (yield from self._ask(signature_name, query, newer, deadline))
        if response.model_spec.version.value != learned.version:
            self._learned = None
            if query.holds(learned.version):
                # Swapped in since, the version that answered has read what other weights made.
                return (yield from self._predict_by(deadline, signature_name, query.for_version(None)))
        return response

    def _ask(
        self, signature_name: str, query: Query, learned: Learned, deadline: float
    ) -> Conversation[PredictResponse]:
        request = self._request(signature_name, query, learned)
        return (yield from self._ways.ask(Method.PREDICT, request, deadline, learned))

    def _request(self, signature_name: str, query: Query, learned: Learned) -> PredictRequest:
        signature = learned.signatures.get(signature_name)
        if signature is None:
            raise ValueError(
                f"model {self._spec.name} has no signature {signature_name}; "
                f"it has {', '.join(sorted(learned.signatures))}."
            )
        inputs = query.for_version(learned.version).inputs(signature)
        request = PredictRequest(model_spec=self._spec, inputs=inputs)
        request.model_spec.signature_name = signature_name
        return request

    def _known(self) -> Learned | None:
        """What was learned, while it may be relied on."""
        learned = self._learned
        old = learned is not None and time.monotonic() - learned.at > _REST_VERSION_SECONDS
        return None if old and self._ways.now is Way.REST else learned

    def _learn(self, deadline: float) -> Conversation[Learned]:
        request = GetModelMetadataRequest(model_spec=self._spec, metadata_field=[SIGNATURE_DEF])
        learned = learned_from((yield from self._ways.ask(Method.METADATA, request, deadline)))
        self._learned = learned
        return learned


def _filtered(signature_name: str, filter: Filter | None) -> str:
    return signature_name if filter is None else f"{signature_name}_filtered"


def _beside(item_id: str, k: int, history: Sequence[str]) -> Query:
    return Query([Shopper(history)] if history else [], k, item_id=item_id)


def _describe(status: ModelVersionStatus) -> str:
    text = f"version {status.version} is {ModelVersionStatus.State.Name(status.state)}"
    return f"{text} ({status.status.error_message})" if status.status.error_message else text
