"""PredictRequest to PredictResponse on one servable: what the gRPC server does, and what warm-up replays."""

import math
from collections.abc import Callable

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse

from serving.errors import RequestError
from serving.servable import Servable, TensorSpec, shape_of

# Elements of one input. A TensorProto may declare any shape and give one value for all of it, so its size in bytes
# doesn't bound what it unpacks to.
MAX_INPUT_ELEMENTS = 1 << 22

# How TensorFlow Serving writes results by default: one value field per type.
_VALUE_FIELDS: dict[int, Callable[[TensorProto, np.ndarray], None]] = {
    tf.float32.as_datatype_enum: lambda proto, values: proto.float_val.extend(values.tolist()),
    tf.float64.as_datatype_enum: lambda proto, values: proto.double_val.extend(values.tolist()),
    tf.int32.as_datatype_enum: lambda proto, values: proto.int_val.extend(values.tolist()),
    tf.int64.as_datatype_enum: lambda proto, values: proto.int64_val.extend(values.tolist()),
    tf.bool.as_datatype_enum: lambda proto, values: proto.bool_val.extend(values.tolist()),
    tf.string.as_datatype_enum: lambda proto, values: proto.string_val.extend(values.tolist()),
}


def predict(servable: Servable, request: PredictRequest) -> PredictResponse:
    """Answers a request, all but the version in `model_spec`, which the caller knows.

    Raises:
        RequestError: the signature, an input or an output is unknown, or an input has the wrong type or shape.
    """
    signature = servable.signature(request.model_spec.signature_name)
    signature.check_names(request.inputs)
    outputs = signature.choose_outputs(request.output_filter)
    inputs = {alias: decode_tensor(alias, proto, signature.inputs[alias]) for alias, proto in request.inputs.items()}
    results = servable.run(signature, inputs, outputs)
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
    shape = shape_of(proto.tensor_shape)
    if shape is None or min(shape, default=0) < 0:
        raise RequestError(grpc.StatusCode.INVALID_ARGUMENT, f"tensor parsing error: {alias}: every size must be known")
    if not spec.accepts(proto.dtype, shape):
        raise RequestError(
            grpc.StatusCode.INVALID_ARGUMENT,
            f'input "{alias}" must be {spec}, received {_type_name(proto.dtype)} {list(shape)}',
        )
    if math.prod(shape) > MAX_INPUT_ELEMENTS:
        raise RequestError(
            grpc.StatusCode.INVALID_ARGUMENT,
            f'input "{alias}" has {math.prod(shape)} elements; at most {MAX_INPUT_ELEMENTS} are accepted',
        )
    try:
        return tf.make_ndarray(proto)
    except ValueError as error:
        # More values, or bytes, than the shape has room for.
        raise RequestError(grpc.StatusCode.INVALID_ARGUMENT, f"tensor parsing error: {alias}: {error}") from None


def encode_tensor(values: np.ndarray, dtype: tf.DType, proto: TensorProto) -> None:
    """Writes an array (or the bytes of a scalar string) into a tensor message."""
    values = np.asarray(values, dtype=object) if dtype == tf.string else np.asarray(values)
    write = _VALUE_FIELDS.get(dtype.as_datatype_enum)
    if write is None:
        proto.CopyFrom(tf.make_tensor_proto(values, dtype=dtype))
        return
    proto.dtype = dtype.as_datatype_enum
    for size in values.shape:
        proto.tensor_shape.dim.add(size=size)
    write(proto, values.ravel())


def _type_name(dtype: int) -> str:
    try:
        return tf.dtypes.as_dtype(dtype).name
    except TypeError:
        return f"of type number {dtype}"
