"""What is asked of a model: shoppers and products as the tensors of a signature."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from protos.predict_pb2 import DT_STRING, Tensor
from serving.client_filters import Filter, Page
from serving.client_held import HeldShopper
from serving.client_signature import Port, Signature
from serving.client_tensors import Value, make_tensor
from serving.client_values import HIGHEST, check_numbers, check_texts, check_width, newest, padded


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
        blend: from -1, without the ranker's score, over 0, as the head was trained, to 1, without the retrieval's.
        target_weights: what each target of the model is worth, at least 0, in the order of `targets` in
            `<version>/assets.extra/tandem.json`; zeros = not given.
        held: what `hold` answered for the same history and context. Only the version that made it reads it, any other
            encodes the history anew; so it does where another shopper of the request has none.

    Raises:
        ValueError: an empty product id, as many types or times as there are no products, or a number out of its range.
    """

    history: Sequence[str]
    event_types: Sequence[str] | None = None
    timestamps: Sequence[int] | None = None
    context: Context = NO_CONTEXT
    exclude: Sequence[str] = ()
    blend: float | None = None
    target_weights: Sequence[float] | None = None
    held: HeldShopper | None = None

    def __post_init__(self) -> None:
        for name, values in (("history", self.history), ("exclude", self.exclude)):
            check_texts(name, values)
        for name, beside in (("event_types", self.event_types), ("timestamps", self.timestamps)):
            if beside is not None and len(beside) != len(self.history):
                raise ValueError(
                    f"{name} must have one entry per product of the history ({len(self.history)}), "
                    f"received {len(beside)}."
                )
        if self.blend is not None and not -1 <= self.blend <= 1:
            raise ValueError(f"blend must be a number from -1 to 1, received {self.blend}.")
        if self.target_weights is not None:
            check_numbers("target_weights", self.target_weights, 0, HIGHEST)
        if not isinstance(self.held, HeldShopper | None):
            raise ValueError(f"held must be a HeldShopper, as hold answers, received {self.held!r}.")

    def rows(self, signature: Signature) -> Iterator[tuple[str, Sequence[Value]]]:
        """Input names, each with this shopper's row; what isn't known is left out."""
        length = signature.width("history_item_ids")
        yield "history_item_ids", newest(self.history, length, "")
        if self.event_types is not None:
            yield "history_event_types", newest(self.event_types, length, "")
        if self.timestamps is not None:
            yield "history_timestamps", newest(self.timestamps, length, 0)
        if self.context.timestamp is not None:
            yield "context_timestamp", [self.context.timestamp]
        for name, value in (("context_device", self.context.device), ("context_region", self.context.region)):
            if value is not None:
                yield name, [value]
        if self.exclude:
            yield "exclude_item_ids", padded("exclude", self.exclude, signature.width("exclude_item_ids"))
        if self.blend is not None:
            yield "blend", [float(self.blend)]
        if self.target_weights is not None:
            why = "one for each of `targets` in the model's assets.extra/tandem.json"
            check_width("target_weights", self.target_weights, signature.width("target_weights"), why)
            yield "target_weights", [float(weight) for weight in self.target_weights]
        if self.held is not None:
            yield from self.held.rows(signature)


@dataclass(frozen=True)
class Query:
    """One request, before it is known how wide the model's inputs are: a row a shopper, or one without any."""

    shoppers: Sequence[Shopper] = ()
    k: int | None = None
    candidates: Sequence[str] | None = None
    item_id: str | None = None
    restriction: Filter | Page | None = None

    def __post_init__(self) -> None:
        if self.k is not None and self.k < 1:
            raise ValueError(f"k must be at least 1, received {self.k}.")
        if self.candidates is not None:
            check_texts("candidates", self.candidates)
        if self.item_id is not None:
            check_texts("item_id", [self.item_id])

    def holds(self, version: int) -> bool:
        """Whether a shopper is held in the terms of this version."""
        return any(shopper.held is not None and shopper.held.version == version for shopper in self.shoppers)

    def for_version(self, version: int | None) -> "Query":
        """The same without the shoppers that other versions made; None = without any."""
        stale = [shopper.held is not None and shopper.held.version != version for shopper in self.shoppers]
        if not any(stale):
            return self
        shoppers = [
            replace(shopper, held=None) if old else shopper for shopper, old in zip(self.shoppers, stale, strict=True)
        ]
        return replace(self, shoppers=shoppers)

    def inputs(self, signature: Signature) -> dict[str, Tensor]:
        """The tensors to send: for one row those that are known, for several all that the signature takes.

        Raises:
            ValueError: the model has no such input, or less room than the arguments need.
        """
        # A default has one row, and with batching all inputs of a request need the same number of rows.
        columns = self.columns(signature, every=len(self.shoppers) > 1)
        return {name: _tensor(signature.inputs[name], rows) for name, rows in columns.items()}

    def columns(self, signature: Signature, every: bool = False) -> dict[str, list[Sequence[Value]]]:
        """The rows of each input that is known of any shopper, or of `every` input: of one width, with the input's
        default where nothing is known. Errors as for `inputs`."""
        self._check_k(signature)
        rows = [dict(self._asked_with(signature)) | dict(shopper.rows(signature)) for shopper in self.shoppers] or [
            dict(self._asked_with(signature))
        ]
        known = set().union(*rows)
        unknown = sorted(known - signature.inputs.keys())
        if unknown:
            raise ValueError(
                f"this model takes no {', '.join(unknown)}; it takes {', '.join(sorted(signature.inputs))}."
            )
        names = [name for name in signature.inputs if every or name in known]
        return {name: _filled(name, signature.inputs[name], [row.get(name) for row in rows]) for name in names}

    def _asked_with(self, signature: Signature) -> Iterator[tuple[str, Sequence[Value]]]:
        """What is the same for every row."""
        if self.candidates is not None:
            width = signature.width("candidate_item_ids")
            yield "candidate_item_ids", padded("candidates", self.candidates, width)
        if self.item_id is not None:
            yield "item_ids", [self.item_id]
        if self.restriction is not None:
            yield from self.restriction.rows(signature)

    def _check_k(self, signature: Signature) -> None:
        # Without the batch: [K], or [lists, length].
        sizes = signature.outputs["item_ids"].sizes if "item_ids" in signature.outputs else ()
        largest = sizes[-1] if sizes else None
        if self.k is not None and largest is not None and self.k > largest:
            raise ValueError(f"k must be at most {largest}, which the model was exported with; received {self.k}.")


def _filled(name: str, port: Port, rows: Sequence[Sequence[Value] | None]) -> list[Sequence[Value]]:
    """Rows of one width; one that is None gets the default."""
    filled = [port.default if row is None else row for row in rows]
    given = [row for row in filled if row is not None]
    if len(given) < len(filled):
        raise ValueError(f"{name} has no default in this model: it must be given for each shopper.")
    # Only where the model takes any width can the rows differ: the newest stand right, the padding left of them.
    width = max(len(row) for row in given)
    padding = "" if port.dtype == DT_STRING else 0
    return [row if len(row) == width else [padding] * (width - len(row)) + list(row) for row in given]


def _tensor(port: Port, rows: Sequence[Sequence[Value]]) -> Tensor:
    """Tensor [rows, …] of one input."""
    values = list(itertools.chain.from_iterable(rows))
    return make_tensor(port.dtype, [len(rows), *([len(rows[0])] if port.sizes else [])], values)
