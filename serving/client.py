"""Asks a model server, embedded or TensorFlow Serving, for recommendations; needs grpc, but no TensorFlow."""

import struct
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from protos.predict_pb2 import (
    DT_FLOAT,
    DT_INT64,
    DT_STRING,
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    GetModelStatusRequest,
    GetModelStatusResponse,
    ModelSpec,
    ModelVersionStatus,
    PredictRequest,
    PredictResponse,
    SignatureDef,
    SignatureDefMap,
    Tensor,
)

_PREDICT = "/tensorflow.serving.PredictionService/Predict"
_METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
_STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
_POLL_SECONDS = 0.1
# Answers that may mean: the model isn't the one whose signatures were learned.
_MISFITS = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION)
_Value = TypeVar("_Value", str, int)
_Response = TypeVar("_Response", bound=Message)


class RecommenderError(RuntimeError):
    """The server's refusal, or its silence: the gRPC status code and a sentence."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code


@dataclass(frozen=True)
class Recommendations:
    """Products, best first, and the model version that chose them."""

    item_ids: tuple[str, ...]
    scores: tuple[float, ...]
    version: int


@dataclass(frozen=True)
class Context:
    """Where and when the shopper is; what isn't known is left out."""

    # Seconds since 1970, UTC.
    timestamp: int | None = None
    device: str | None = None
    region: str | None = None


@dataclass(frozen=True)
class _Shopper:
    """One shopper's side of a request."""

    history: Sequence[str]
    event_types: Sequence[str] | None = None
    timestamps: Sequence[int] | None = None
    context: Context = Context()
    exclude: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name, values in (("history", self.history), ("exclude", self.exclude)):
            _check_ids(name, values)
        for name, beside in (("event_types", self.event_types), ("timestamps", self.timestamps)):
            if beside is not None and len(beside) != len(self.history):
                raise ValueError(
                    f"{name} must have one entry per product of the history ({len(self.history)}), "
                    f"received {len(beside)}."
                )

    def inputs(self, signature: SignatureDef) -> dict[str, Tensor]:
        """The tensors of one shopper, batch size 1; what isn't known is left to the signature's defaults."""
        length = _width(signature, "history_item_ids")
        inputs = {"history_item_ids": _strings(_newest(self.history, length, ""))}
        if self.event_types is not None:
            inputs["history_event_types"] = _strings(_newest(self.event_types, length, ""))
        if self.timestamps is not None:
            inputs["history_timestamps"] = _integers(_newest(self.timestamps, length, 0))
        if self.context.timestamp is not None:
            inputs["context_timestamp"] = _integers([self.context.timestamp], vector=True)
        for name, value in (("context_device", self.context.device), ("context_region", self.context.region)):
            if value is not None:
                inputs[name] = _strings([value], vector=True)
        if self.exclude:
            inputs["exclude_item_ids"] = _strings(
                _padded("exclude", self.exclude, _width(signature, "exclude_item_ids"))
            )
        return inputs


@dataclass(frozen=True)
class _Query:
    """What is asked, before it is known how wide the model's inputs are."""

    k: int | None = None
    shopper: _Shopper | None = None
    candidates: Sequence[str] | None = None
    item_id: str | None = None

    def __post_init__(self) -> None:
        if self.k is not None and self.k < 1:
            raise ValueError(f"k must be at least 1, received {self.k}.")
        if self.candidates is not None:
            _check_ids("candidates", self.candidates)
        if self.item_id is not None:
            _check_ids("item_id", [self.item_id])

    def inputs(self, signature: SignatureDef) -> dict[str, Tensor]:
        """The tensors to send.

        Raises:
            ValueError: the model has no such input, or less room than the arguments need.
        """
        largest = _width(signature, "item_ids", of_output=True) if self.k is not None else None
        if self.k is not None and largest is not None and self.k > largest:
            raise ValueError(f"k must be at most {largest}, which the model was exported with; received {self.k}.")
        inputs = self.shopper.inputs(signature) if self.shopper is not None else {}
        if self.candidates is not None:
            width = _width(signature, "candidate_item_ids")
            inputs["candidate_item_ids"] = _strings(_padded("candidates", self.candidates, width))
        if self.item_id is not None:
            inputs["item_ids"] = _strings([self.item_id], vector=True)
        unknown = sorted(inputs.keys() - signature.inputs.keys())
        if unknown:
            raise ValueError(
                f"this model takes no {', '.join(unknown)}; it takes {', '.join(sorted(signature.inputs))}."
            )
        return inputs


class RecommenderClient:
    """A connection to one model. Threads may share it.

    with RecommenderClient("localhost:8500", timeout=0.5) as client:
        client.recommend(["sku-1", "sku-2"], k=20).item_ids
    """

    def __init__(
        self,
        target: str,
        timeout: float = 5.0,
        model: str = "recommender",
        version: int | None = None,
        max_message_bytes: int = 64 << 20,
    ) -> None:
        """Connects at the first request.

        Args:
            target: HOST:PORT.
            timeout: seconds that a call may take in all; every request carries what is left of it as its deadline.
            model: name of the model on the server.
            version: ask this version only; None = the newest.
            max_message_bytes: largest answer taken (gRPC's own limit of 4 MB is small for large batches).
        """
        self.target = target
        self.timeout = timeout
        self._spec = ModelSpec(name=model)
        if version is not None:
            self._spec.version.value = version
        self._channel = grpc.insecure_channel(
            target,
            options=[
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.max_send_message_length", max_message_bytes),
            ],
        )
        self._ask_predict = self._method(_PREDICT, PredictResponse)
        self._ask_metadata = self._method(_METADATA, GetModelMetadataResponse)
        self._ask_status = self._method(_STATUS, GetModelStatusResponse)
        # What the model takes (its shapes say L, K, C, X) and the version that said so; learned at the first request.
        self._learned: tuple[int, Mapping[str, SignatureDef]] | None = None

    def close(self) -> None:
        """Ends the connection."""
        self._channel.close()

    def __enter__(self) -> "RecommenderClient":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def recommend(
        self,
        history: Sequence[str],
        k: int = 20,
        *,
        event_types: Sequence[str] | None = None,
        timestamps: Sequence[int] | None = None,
        context: Context = Context(),
        exclude: Sequence[str] = (),
    ) -> Recommendations:
        """The `k` products this shopper is most likely to want next.

        Args:
            history: product ids in time order, newest last; only the newest that the model looks at are sent. May be
                empty (a new visitor), and may hold ids that the model doesn't know.
            k: how many; at most the K the model was exported with.
            event_types: what was done with each product of the history ("view", "add_to_cart", "purchase", …).
            timestamps: seconds since 1970 (UTC) of each product of the history.
            context: where and when the shopper is.
            exclude: product ids to leave out of the answer.

        Raises:
            ValueError: an argument doesn't fit the model.
            RecommenderError: the server answers with an error or not in time.
        """
        shopper = _Shopper(history, event_types, timestamps, context, exclude)
        return self._items("recommend", _Query(k, shopper))

    def retrieve(
        self,
        history: Sequence[str],
        *,
        event_types: Sequence[str] | None = None,
        timestamps: Sequence[int] | None = None,
        context: Context = Context(),
        exclude: Sequence[str] = (),
    ) -> Recommendations:
        """The candidates of the first stage. Arguments and errors as for `recommend`."""
        return self._items("retrieve", _Query(shopper=_Shopper(history, event_types, timestamps, context, exclude)))

    def rank(
        self,
        history: Sequence[str],
        candidates: Sequence[str],
        *,
        event_types: Sequence[str] | None = None,
        timestamps: Sequence[int] | None = None,
        context: Context = Context(),
        exclude: Sequence[str] = (),
    ) -> Recommendations:
        """These candidates, best first. Arguments and errors as for `recommend`."""
        shopper = _Shopper(history, event_types, timestamps, context, exclude)
        return self._items("rank", _Query(shopper=shopper, candidates=candidates))

    def similar_items(self, item_id: str, k: int = 20, *, history: Sequence[str] = ()) -> Recommendations:
        """The `k` products most like one product, with a history blended in if given. Errors as for `recommend`."""
        return self._items("similar_items", _Query(k, _Shopper(history) if history else None, item_id=item_id))

    def complementary_items(self, item_id: str, k: int = 20, *, history: Sequence[str] = ()) -> Recommendations:
        """The `k` products of other categories that go with one product. As `similar_items`.

        Raises:
            ValueError: as for `recommend`; or the model has no such signature, because its catalogue has no categories.
        """
        return self._items("complementary_items", _Query(k, _Shopper(history) if history else None, item_id=item_id))

    def embed_user(
        self,
        history: Sequence[str],
        *,
        event_types: Sequence[str] | None = None,
        timestamps: Sequence[int] | None = None,
        context: Context = Context(),
    ) -> tuple[float, ...]:
        """The shopper as a vector of the retrieval model, [D]. Arguments and errors as for `recommend`."""
        response = self._predict("embed_user", _Query(shopper=_Shopper(history, event_types, timestamps, context)))
        return _floats(response.outputs["embedding"])

    def wait_until_ready(self, timeout: float = 60.0) -> int:
        """Returns the model's newest available version, as soon as there is one.

        Raises:
            RecommenderError: DEADLINE_EXCEEDED after `timeout` seconds, with what the server last said.
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                request = GetModelStatusRequest(model_spec=self._spec)
                versions = self._ask_status(request, deadline).model_version_status
                ready = [entry.version for entry in versions if entry.state == ModelVersionStatus.AVAILABLE]
                if ready:
                    return max(ready)
                said = "; ".join(_describe(entry) for entry in versions)
            except RecommenderError as error:
                said = str(error)
            if time.monotonic() + _POLL_SECONDS > deadline:
                raise RecommenderError(
                    grpc.StatusCode.DEADLINE_EXCEEDED,
                    f"model {self._spec.name} at {self.target} was not ready after {timeout:g} s: {said}",
                )
            time.sleep(_POLL_SECONDS)

    def _items(self, signature_name: str, query: _Query) -> Recommendations:
        response = self._predict(signature_name, query)
        ids = response.outputs["item_ids"].string_val
        # Padded candidates come back as empty ids.
        pairs = [
            (item.decode(), score) for item, score in zip(ids, _floats(response.outputs["scores"]), strict=True) if item
        ]
        pairs = pairs[: query.k]
        return Recommendations(
            tuple(item for item, _ in pairs), tuple(score for _, score in pairs), response.model_spec.version.value
        )

    def _predict(self, signature_name: str, query: _Query) -> PredictResponse:
        deadline = time.monotonic() + self.timeout
        learned = self._learned or self._learn(deadline)
        try:
            response = self._ask(signature_name, query, learned[1], deadline)
        except (RecommenderError, ValueError) as error:
            if isinstance(error, RecommenderError) and error.code not in _MISFITS:
                raise
            # A new version with other shapes may have been swapped in since.
            newer = self._learn(deadline)
            if newer[0] == learned[0]:
                raise
            learned, response = newer, self._ask(signature_name, query, newer[1], deadline)
        if response.model_spec.version.value != learned[0]:
            self._learned = None
        return response

    def _ask(
        self, signature_name: str, query: _Query, signatures: Mapping[str, SignatureDef], deadline: float
    ) -> PredictResponse:
        signature = signatures.get(signature_name)
        if signature is None:
            raise ValueError(
                f"model {self._spec.name} has no signature {signature_name}; it has {', '.join(sorted(signatures))}."
            )
        request = PredictRequest(model_spec=self._spec, inputs=query.inputs(signature))
        request.model_spec.signature_name = signature_name
        return self._ask_predict(request, deadline)

    def _learn(self, deadline: float) -> tuple[int, Mapping[str, SignatureDef]]:
        request = GetModelMetadataRequest(model_spec=self._spec, metadata_field=["signature_def"])
        response = self._ask_metadata(request, deadline)
        signatures = SignatureDefMap.FromString(response.metadata["signature_def"].value)
        self._learned = (response.model_spec.version.value, dict(signatures.signature_def))
        return self._learned

    def _method(self, path: str, response: type[_Response]) -> Callable[[Message, float], _Response]:
        """The call of one method: request and deadline (`time.monotonic`) in, response out."""
        call = self._channel.unary_unary(path, request_serializer=_serialize, response_deserializer=response.FromString)

        def ask(request: Message, deadline: float) -> _Response:
            try:
                return call(request, timeout=max(deadline - time.monotonic(), 0.001))
            except grpc.RpcError as error:
                raise RecommenderError(
                    error.code(), f"{path.rpartition('/')[2]} at {self.target}: {error.details()}"
                ) from None

        return ask


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


def _describe(status: ModelVersionStatus) -> str:
    text = f"version {status.version} is {ModelVersionStatus.State.Name(status.state)}"
    return f"{text} ({status.status.error_message})" if status.status.error_message else text


def _check_ids(name: str, ids: Sequence[str]) -> None:
    if isinstance(ids, str):
        raise ValueError(f"{name} must be a sequence of product ids, received the string {ids!r}.")
    if not all(ids):
        raise ValueError(f"{name} must hold no empty product id, received one at position {list(ids).index('')}.")


def _width(signature: SignatureDef, name: str, of_output: bool = False) -> int | None:
    """Size of the second dimension of an input [batch, width]; None if it is free or there is no such input."""
    infos = signature.outputs if of_output else signature.inputs
    if name not in infos or len(infos[name].tensor_shape.dim) != 2:
        return None
    size = infos[name].tensor_shape.dim[1].size
    return size if size >= 0 else None


def _newest(values: Sequence[_Value], width: int | None, padding: _Value) -> list[_Value]:
    """The last `width` values, padded on the left: the newest stands last."""
    if width is None:
        return list(values)
    newest = list(values[-width:]) if width else []
    return [padding] * (width - len(newest)) + newest


def _padded(name: str, ids: Sequence[str], width: int | None) -> list[str]:
    if width is not None and len(ids) > width:
        raise ValueError(
            f"{name} must hold at most {width} product ids, which the model was exported with; received {len(ids)}."
        )
    return [*ids, *[""] * ((width or len(ids)) - len(ids))]


def _strings(values: Sequence[str], vector: bool = False) -> Tensor:
    """Tensor of shape [1, len(values)], or [len(values)]."""
    return _shaped(Tensor(dtype=DT_STRING, string_val=[value.encode() for value in values]), len(values), vector)


def _integers(values: Sequence[int], vector: bool = False) -> Tensor:
    """Tensor of shape [1, len(values)], or [len(values)]."""
    return _shaped(Tensor(dtype=DT_INT64, int64_val=values), len(values), vector)


def _shaped(tensor: Tensor, size: int, vector: bool) -> Tensor:
    for length in [size] if vector else [1, size]:
        tensor.tensor_shape.dim.add(size=length)
    return tensor


def _floats(tensor: Tensor) -> tuple[float, ...]:
    """All values of a float tensor; a server may write them as a list or as little-endian bytes."""
    if tensor.dtype != DT_FLOAT:
        raise ValueError(f"expected a float tensor, received type number {tensor.dtype}.")
    if tensor.tensor_content:
        return struct.unpack(f"<{len(tensor.tensor_content) // 4}f", tensor.tensor_content)
    return tuple(tensor.float_val)
