"""PredictRequest to PredictResponse on one servable: what the gRPC server does, and what warm-up replays."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse

from serving.errors import invalid_argument
from serving.servable import Servable, Signature, TensorSpec, shape_of

# How a servable's graph is run: servable, signature, inputs by name, names of the outputs → outputs by name.
Run = Callable[[Servable, Signature, Mapping[str, np.ndarray], Sequence[str]], dict[str, np.ndarray]]

# Elements of one input. A TensorProto may declare any shape and give one value for all of it, so its size in bytes
# doesn't bound what it unpacks to.
MAX_INPUT_ELEMENTS = 1 << 22

# That a tensor of TensorFlow can have.
_MAX_DIMENSIONS = 254

# Bytes that a repeated value may unpack to: a message of 1 MB could ask for terabytes of strings. What TensorFlow takes
# for a string beside its characters, and at most for a number.
_MAX_REPEATED_BYTES = 4 << 20
_STRING_BYTES = 24
_NUMBER_BYTES = 8

# The types that recommenders speak, as NumPy has them, and where a TensorProto keeps values of each.
# TensorFlow Serving, too, writes results into these fields by default.
_VALUE_FIELDS: dict[int, tuple[str, type]] = {
    tf.float32.as_datatype_enum: ("float_val", np.float32),
    tf.float64.as_datatype_enum: ("double_val", np.float64),
    tf.int32.as_datatype_enum: ("int_val", np.int32),
    tf.int64.as_datatype_enum: ("int64_val", np.int64),
    tf.bool.as_datatype_enum: ("bool_val", np.bool_),
    tf.string.as_datatype_enum: ("string_val", np.object_),
}


def predict(servable: Servable, request: PredictRequest, run: Run) -> PredictResponse:
    """Answers a request, all but the version in `model_spec`, which the caller knows.

    Raises:
        RequestError: the signature, an input or an output is unknown, or an input has the wrong type or shape.
    """
    signature = servable.signature(request.model_spec.signature_name)
    signature.check_names(request.inputs)
    outputs = signature.choose_outputs(request.output_filter)
    inputs = {alias: decode_tensor(alias, proto, signature.inputs[alias]) for alias, proto in request.inputs.items()}
    results = run(servable, signature, inputs, outputs)
    response = PredictResponse()
    response.model_spec.name = request.model_spec.name
    response.model_spec.signature_name = signature.name
    for alias, values in results.items():
        encode_tensor(values, signature.outputs[alias].dtype, response.outputs[alias])
    return response


def decode_tensor(alias: str, proto: TensorProto, spec: TensorSpec) -> np.ndarray:
    """The array of a tensor message, once its type and shape are known to be what the signature asks for.

    Raises:
        RequestError: INVALID_ARGUMENT that names the input, what is expected and what came.
    """
    if len(proto.tensor_shape.dim) > _MAX_DIMENSIONS:
        count = len(proto.tensor_shape.dim)
        raise invalid_argument(f"tensor parsing error: {alias}: {count} dimensions; at most {_MAX_DIMENSIONS} exist")
    shape = shape_of(proto.tensor_shape)
    if shape is None or min(shape, default=0) < 0:
        raise invalid_argument(f"tensor parsing error: {alias}: every size must be known")
    check_shape(alias, spec, proto.dtype, shape)
    elements = math.prod(shape)
    if elements > MAX_INPUT_ELEMENTS:
        raise invalid_argument(
            f'input "{alias}" has {elements} elements; at most {MAX_INPUT_ELEMENTS} are accepted',
        )
    try:
        return flat_array(proto, elements).reshape(shape)
    except ValueError as error:
        # More values, or bytes, than the shape has room for.
        raise invalid_argument(f"tensor parsing error: {alias}: {error}") from None


def check_shape(alias: str, spec: TensorSpec, dtype: int, shape: Sequence[int]) -> None:
    """Whether a tensor of this DataType number and shape may be fed.

    Raises:
        RequestError: INVALID_ARGUMENT that names the input, what is expected and what came.
    """
    if not spec.accepts(dtype, shape):
        raise invalid_argument(f'input "{alias}" must be {spec}, received {_type_name(dtype)} {list(shape)}')


def encode_tensor(values: np.ndarray, dtype: tf.DType, proto: TensorProto) -> None:
    """Writes an array (or the bytes of a scalar string) into a tensor message."""
    values = np.asarray(values, dtype=object) if dtype == tf.string else np.asarray(values)
    place = _VALUE_FIELDS.get(dtype.as_datatype_enum)
    if place is None:
        proto.CopyFrom(tf.make_tensor_proto(values, dtype=dtype))
        return
    proto.dtype = dtype.as_datatype_enum
    for size in values.shape:
        proto.tensor_shape.dim.add(size=size)
    getattr(proto, place[0]).extend(values.ravel().tolist())


def flat_array(proto: TensorProto, elements: int) -> np.ndarray:
    """The values of a message, flat.

    `tf.make_ndarray` takes four times as long for an input of a recommender, which a request pays for each of its
    inputs; it is left to the types that are rare.

    Raises:
        ValueError: there are more values, or bytes, than elements.
    """
    place = _VALUE_FIELDS.get(proto.dtype)
    if place is None:
        return tf.make_ndarray(proto)
    field, dtype = place
    if proto.tensor_content and dtype is np.object_:
        raise ValueError("strings are read from string_val, not from tensor_content")
    if proto.tensor_content:
        # A copy, since a message's bytes can't be written to.
        return np.frombuffer(proto.tensor_content, dtype=dtype).copy()
    given = getattr(proto, field)
    # Told before they are copied: a list of a hundred thousand numbers takes milliseconds.
    if len(given) > elements:
        raise ValueError(f"{len(given)} values for a tensor of {elements} elements")
    values = list(given)
    if len(values) < elements:
        # The last value stands for those that follow.
        values += _repeated(values[-1] if values else (b"" if dtype is np.object_ else 0), elements - len(values))
    return np.array(values, dtype=dtype)


def _repeated(value: bytes | float, count: int) -> list[bytes | float]:
    size = count * (_STRING_BYTES + len(value) if isinstance(value, bytes) else _NUMBER_BYTES)
    if size > _MAX_REPEATED_BYTES:
        raise ValueError(f"{count} values are left to the last one; repeated they may take {_MAX_REPEATED_BYTES} bytes")
    return [value] * count


def _type_name(dtype: int) -> str:
    try:
        return tf.dtypes.as_dtype(dtype).name
    except TypeError:
        return f"of type number {dtype}"
