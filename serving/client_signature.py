"""What a model takes and gives, as its metadata say: names, types, widths and defaults."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from protos.predict_pb2 import GetModelMetadataResponse, SignatureDef, SignatureDefMap, TensorInfo
from serving.client_tensors import values_of

SIGNATURE_DEF = "signature_def"


@dataclass(frozen=True)
class Port:
    """One input or output, [batch, …]."""

    dtype: int
    # Sizes after the batch; None = any.
    sizes: tuple[int | None, ...]
    # The row that stands for a value nobody gives; None = a value must be given.
    default: Sequence[Any] | None = None

    @property
    def width(self) -> int | None:
        """Size of the second dimension of [batch, width]; None if it is free or there is none."""
        return self.sizes[0] if len(self.sizes) == 1 else None


@dataclass(frozen=True)
class Signature:
    """One way to ask a model."""

    inputs: Mapping[str, Port]
    outputs: Mapping[str, Port]

    def width(self, name: str) -> int | None:
        """Second dimension of an input; None if it is free or there is no such input."""
        return self.inputs[name].width if name in self.inputs else None


@dataclass(frozen=True)
class Learned:
    """All signatures, and the version that has them."""

    version: int
    signatures: Mapping[str, Signature]
    # `time.monotonic()` of when it was asked.
    at: float = field(default_factory=time.monotonic)


def learned_from(response: GetModelMetadataResponse) -> Learned:
    """What a model's metadata say."""
    signatures = SignatureDefMap.FromString(response.metadata[SIGNATURE_DEF].value).signature_def
    return Learned(
        response.model_spec.version.value, {name: signature_from(definition) for name, definition in signatures.items()}
    )


def signature_from(definition: SignatureDef) -> Signature:
    """What a SignatureDef says."""
    defaults = {name: list(values_of(tensor)) for name, tensor in definition.defaults.items()}
    return Signature(
        {name: _port(info, defaults.get(name)) for name, info in definition.inputs.items()},
        {name: _port(info) for name, info in definition.outputs.items()},
    )


def _port(info: TensorInfo, default: Sequence[Any] | None = None) -> Port:
    sizes = [dim.size if dim.size >= 0 else None for dim in info.tensor_shape.dim]
    return Port(info.dtype, tuple(sizes[1:]), default)
