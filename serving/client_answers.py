"""What a model answers: responses as lists of products and as vectors."""

from collections.abc import Sequence
from dataclasses import dataclass

from protos.predict_pb2 import PredictResponse
from serving.client_tensors import shape_of, values_of


@dataclass(frozen=True)
class Recommendations:
    """Products, best first, and the model version that chose them."""

    item_ids: tuple[str, ...]
    scores: tuple[float, ...]
    version: int


def read_lists(response: PredictResponse, k: int | None) -> list[Recommendations]:
    """The lists of `item_ids` and `scores` [B, …, N], row after row, at most `k` long."""
    width = shape_of(response.outputs["item_ids"])[-1]
    ids, scores = values_of(response.outputs["item_ids"]), values_of(response.outputs["scores"])
    version = response.model_spec.version.value
    answers = []
    for start in range(0, len(ids), width):
        span = slice(start, start + width)
        # Padded candidates come back as empty ids.
        pairs = [pair for pair in zip(ids[span], scores[span], strict=True) if pair[0]][:k]
        answers.append(
            Recommendations(tuple(item.decode() for item, _ in pairs), tuple(score for _, score in pairs), version)
        )
    return answers


def read_page(response: PredictResponse, names: Sequence[str], k: int | None) -> dict[str, Recommendations]:
    """The lists [1, N, length] by name; the places that follow those of the names are empty."""
    return dict(zip(names, read_lists(response, k), strict=False))


def read_vector(response: PredictResponse, name: str) -> tuple[float, ...]:
    """The values of a float output [1, D]."""
    return tuple(values_of(response.outputs[name]))
