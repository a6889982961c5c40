"""Tensors on the wire: lists of rows in and out of the messages of protos/predict.proto."""

import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, cast

from protos.predict_pb2 import (
    DT_BOOL,
    DT_DOUBLE,
    DT_FLOAT,
    DT_INT32,
    DT_INT64,
    DT_STRING,
    DataType,
    Tensor,
)

Value: TypeAlias = str | bytes | int | float | bool


class _Kind(NamedTuple):
    # The field that holds the values, and the little-endian code of one value in tensor_content ("" = never there).
    field: str
    code: str


_KINDS: Mapping[int, _Kind] = {
    DT_FLOAT: _Kind("float_val", "f"),
    DT_DOUBLE: _Kind("double_val", "d"),
    DT_INT32: _Kind("int_val", "i"),
    DT_INT64: _Kind("int64_val", "q"),
    DT_BOOL: _Kind("bool_val", "?"),
    DT_STRING: _Kind("string_val", ""),
}


def make_tensor(dtype: int, shape: Sequence[int], values: Sequence[Any]) -> Tensor:
    """Tensor of a shape from its values in row-major order; strings are written as UTF-8."""
    tensor = Tensor(dtype=cast(DataType, dtype))
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    if dtype == DT_STRING:
        tensor.string_val.extend([value.encode() if isinstance(value, str) else value for value in values])
    else:
        getattr(tensor, _kind(dtype).field).extend(values)
    return tensor


def shape_of(tensor: Tensor) -> list[int]:
    """Sizes of all dimensions."""
    return [dim.size for dim in tensor.tensor_shape.dim]


def values_of(tensor: Tensor) -> Sequence[Any]:
    """All values in row-major order; strings as bytes.

    A server may write them as a list, as little-endian bytes, or as fewer values than the shape has room for: the
    last one then stands for all that follow (tensorflow/core/framework/tensor.proto).

    Raises:
        ValueError: a type that Tandem's signatures never have.
    """
    kind = _kind(tensor.dtype)
    if tensor.tensor_content and kind.code:
        size = struct.calcsize(f"<{kind.code}")
        return struct.unpack(f"<{len(tensor.tensor_content) // size}{kind.code}", tensor.tensor_content)
    values: Sequence[Any] = getattr(tensor, kind.field)
    room = math.prod(shape_of(tensor))
    return values if len(values) >= room or not values else [*values, *[values[-1]] * (room - len(values))]


def _kind(dtype: int) -> _Kind:
    if dtype not in _KINDS:
        raise ValueError(f"expected a tensor of numbers or strings, received type number {dtype}.")
    return _KINDS[dtype]
