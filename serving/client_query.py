"""What is asked of a model: shoppers and products as the tensors of a signature."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from protos.predict_pb2 import DT_STRING, Tensor
from serving.client_signature import Port, Signature
from serving.client_tensors import Value, make_tensor


@dataclass(frozen=True)
class Context:
    """Where and when the shopper is; what isn't known is left out."""

    # Seconds since 1970, UTC.
    timestamp: int | None = None
    device: str | None = None
    region: str | None = None


NO_CONTEXT = Context()


@dataclass(frozen=True)
class Shopper:
    """One shopper's side of a request.

    Args:
        history: product ids in time order, newest last; only the newest that the model looks at are sent. May be
            empty (a new visitor), and may hold ids that the model doesn't know.
        event_types: what was done with each product of the history ("view", "add_to_cart", "purchase", …).
        timestamps: seconds since 1970 (UTC) of each product of the history.
        context: where and when the shopper is.
        exclude: product ids to leave out of the answer.

    Raises:
        ValueError: an empty product id, or as many types or times as there are no products.
    """

    history: Sequence[str]
    event_types: Sequence[str] | None = None
    timestamps: Sequence[int] | None = None
    context: Context = NO_CONTEXT
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

    def rows(self, signature: Signature) -> Iterator[tuple[str, Sequence[Value]]]:
        """Input names, each with this shopper's row; what isn't known is left out."""
        length = signature.width("history_item_ids")
        yield "history_item_ids", _newest(self.history, length, "")
        if self.event_types is not None:
            yield "history_event_types", _newest(self.event_types, length, "")
        if self.timestamps is not None:
            yield "history_timestamps", _newest(self.timestamps, length, 0)
        if self.context.timestamp is not None:
            yield "context_timestamp", [self.context.timestamp]
        for name, value in (("context_device", self.context.device), ("context_region", self.context.region)):
            if value is not None:
                yield name, [value]
        if self.exclude:
            yield "exclude_item_ids", _padded("exclude", self.exclude, signature.width("exclude_item_ids"))


@dataclass(frozen=True)
class Query:
    """One request, before it is known how wide the model's inputs are: a row a shopper, or one without any."""

    shoppers: Sequence[Shopper] = ()
    k: int | None = None
    candidates: Sequence[str] | None = None
    item_id: str | None = None

    def __post_init__(self) -> None:
        if self.k is not None and self.k < 1:
            raise ValueError(f"k must be at least 1, received {self.k}.")
        if self.candidates is not None:
            _check_ids("candidates", self.candidates)
        if self.item_id is not None:
            _check_ids("item_id", [self.item_id])

    def inputs(self, signature: Signature) -> dict[str, Tensor]:
        """The tensors to send: for one row those that are known, for several all that the signature takes.

        Raises:
            ValueError: the model has no such input, or less room than the arguments need.
        """
        self._check_k(signature)
        rows = [dict(self._asked_with(signature)) | dict(shopper.rows(signature)) for shopper in self.shoppers] or [
            dict(self._asked_with(signature))
        ]
        unknown = sorted(set().union(*rows) - signature.inputs.keys())
        if unknown:
            raise ValueError(
                f"this model takes no {', '.join(unknown)}; it takes {', '.join(sorted(signature.inputs))}."
            )
        # A default has one row, and with batching all inputs of a request need the same number of rows.
        names = signature.inputs if len(rows) > 1 else rows[0]
        return {name: _tensor(name, signature.inputs[name], [row.get(name) for row in rows]) for name in names}

    def _asked_with(self, signature: Signature) -> Iterator[tuple[str, Sequence[Value]]]:
        """What is the same for every row."""
        if self.candidates is not None:
            width = signature.width("candidate_item_ids")
            yield "candidate_item_ids", _padded("candidates", self.candidates, width)
        if self.item_id is not None:
            yield "item_ids", [self.item_id]

    def _check_k(self, signature: Signature) -> None:
        largest = signature.outputs["item_ids"].width if "item_ids" in signature.outputs else None
        if self.k is not None and largest is not None and self.k > largest:
            raise ValueError(f"k must be at most {largest}, which the model was exported with; received {self.k}.")


def _tensor(name: str, port: Port, rows: Sequence[Sequence[Value] | None]) -> Tensor:
    """Tensor [rows, …] of one input; a row that is None gets the default."""
    filled = [port.default if row is None else row for row in rows]
    given = [row for row in filled if row is not None]
    if len(given) < len(filled):
        raise ValueError(f"{name} has no default in this model: it must be given for each shopper.")
    # Only where the model takes any width can the rows differ: the newest stand right, the padding left of them.
    width = max(len(row) for row in given)
    padding = "" if port.dtype == DT_STRING else 0
    values: list[Any] = []
    for row in given:
        values += [padding] * (width - len(row))
        values += row
    return make_tensor(port.dtype, [len(filled), *([width] if port.sizes else [])], values)


def _newest(values: Sequence[Value], width: int | None, padding: Value) -> Sequence[Value]:
    """The last `width` values, padded on the left: the newest stands last."""
    if width is None:
        return values
    newest = list(values[-width:]) if width else []
    return [padding] * (width - len(newest)) + newest


def _padded(name: str, ids: Sequence[str], width: int | None) -> Sequence[str]:
    if width is not None and len(ids) > width:
        raise ValueError(
            f"{name} must hold at most {width} product ids, which the model was exported with; received {len(ids)}."
        )
    return [*ids, *[""] * ((width or len(ids)) - len(ids))]


def _check_ids(name: str, ids: Sequence[str]) -> None:
    if isinstance(ids, str):
        raise ValueError(f"{name} must be a sequence of product ids, received the string {ids!r}.")
    if not all(ids):
        raise ValueError(f"{name} must hold no empty product id, received one at position {list(ids).index('')}.")
