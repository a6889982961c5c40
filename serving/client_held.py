"""What a model made of a shopper, for the caller to hold: given back, it spares later requests both encoders."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from protos.predict_pb2 import PredictResponse
from serving.client_signature import Signature
from serving.client_tensors import Value, values_of
from serving.client_values import HIGHEST, check_numbers, check_width


@dataclass(frozen=True)
class HeldShopper:
    """What both stages know of a shopper, in the terms of one version's weights.

    Args:
        embedding: the shopper's vector, [D].
        state: for the ranker, [S].
        version: of the model that made them.

    Raises:
        ValueError: a value that is no finite number.
    """

    embedding: Sequence[float]
    state: Sequence[float]
    version: int

    def __post_init__(self) -> None:
        for name, values in (("held.embedding", self.embedding), ("held.state", self.state)):
            check_numbers(name, values, -HIGHEST, HIGHEST)

    def rows(self, signature: Signature) -> Iterator[tuple[str, Sequence[Value]]]:
        """Input names, each with one row."""
        why = f"as version {self.version} answers"
        for name, argument, values in (
            ("user_embedding", "held.embedding", self.embedding),
            ("user_state", "held.state", self.state),
        ):
            check_width(argument, values, signature.width(name), why)
            yield name, list(values)


def read_held(response: PredictResponse) -> HeldShopper:
    """The shopper that `embed_user` answers with.

    Raises:
        ValueError: a model that answers no state.
    """
    outputs = response.outputs
    if "state" not in outputs:
        raise ValueError(f"embed_user of this model answers no state; it answers {', '.join(sorted(outputs))}.")
    embedding, state = (tuple(values_of(outputs[name])) for name in ("embedding", "state"))
    return HeldShopper(embedding, state, response.model_spec.version.value)
