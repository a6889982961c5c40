"""JSON of TensorFlow Serving's REST API: request bodies to tensors, tensors to response bodies.

Source of the format and of the messages: tensorflow_serving/util/json_tensor.cc and its documentation ("RESTful API").
"""

import base64
import binascii
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import grpc
import numpy as np
import orjson
import tensorflow as tf
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef, TensorInfo
from tensorflow_serving.apis.get_model_metadata_pb2 import GetModelMetadataResponse, SignatureDefMap
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusResponse

from serving.errors import RequestError, invalid_argument
from serving.predict import MAX_INPUT_ELEMENTS, check_shape, flat_array
from serving.servable import tensor_spec

# Characters of a value that an error message shows.
_SHOWN = 256
# A value of more elements is looked at only if it has the shape that the signature asks for.
_LOOKED_AT_FIRST = 10_000
# What the parser says, and what TensorFlow Serving's says in its place; anything else is "Invalid value."
_PARSE_ERRORS = {
    "unexpected content after document": "The document root must not be followed by other values.",
    "unexpected character, expected a string key": "Missing a name for object member.",
    "unexpected character, expected ':' after key": "Missing a colon after a name of object member.",
    "unexpected character, expected ',' or '}'": "Missing a comma or '}' after an object member.",
    "unexpected character, expected ',' or ']'": "Missing a comma or ']' after an array element.",
    "invalid escaped sequence in string": "Invalid escape character in string.",
    "no low surrogate in string": "The surrogate pair in string is invalid.",
    "unexpected control character in string": "Invalid encoding in string.",
    "str is not valid UTF-8: surrogates not allowed": "Invalid encoding in string.",
    "number is infinity when parsed as double": "Number too big to be stored in double.",
    "no digit after decimal point": "Miss fraction part in number.",
    "no digit after exponent sign": "Miss exponent in number.",
    "depth limit exceeded": "Nested deeper than 1024 levels.",
}
# Strings, which are skipped, or a token that JSON doesn't know: NaN, Inf or Infinity, with or without a sign.
_NOT_FINITE = re.compile(r'("(?:[^"\\]|\\.)*")|(-?)(NaN|Inf(?:inity)?)')
# A mapping, because the type stubs are of a protobuf that calls the first one otherwise.
_PRINTED: dict[str, Any] = {"including_default_value_fields": True, "preserving_proto_field_name": True, "indent": 1}
_JSON_TYPES = {type(None): "Null", dict: "Object", list: "Array", str: "String", int: "Number", float: "Number"}


@dataclass(frozen=True)
class _Type:
    """How JSON values become elements of one type of tensor; `largest_int` is the last whole number kept exactly."""

    name: str
    accepts: frozenset[type]
    numpy: type[np.generic] = np.object_
    largest_int: int = 0


_TYPES = {
    tf.float32.as_datatype_enum: _Type("float", frozenset({int, float}), np.float32, (1 << 24) - 1),
    tf.float64.as_datatype_enum: _Type("double", frozenset({int, float}), np.float64, (1 << 53) - 1),
    tf.int64.as_datatype_enum: _Type("int64", frozenset({int}), np.int64),
    tf.int32.as_datatype_enum: _Type("int32", frozenset({int}), np.int32),
    tf.int16.as_datatype_enum: _Type("int16", frozenset({int}), np.int16),
    tf.int8.as_datatype_enum: _Type("int8", frozenset({int}), np.int8),
    tf.uint8.as_datatype_enum: _Type("uint8", frozenset({int}), np.uint8),
    tf.uint32.as_datatype_enum: _Type("uint32", frozenset({int}), np.uint32),
    tf.uint64.as_datatype_enum: _Type("uint64", frozenset({int}), np.uint64),
    tf.bool.as_datatype_enum: _Type("bool", frozenset({bool}), np.bool_),
    tf.string.as_datatype_enum: _Type("string", frozenset({str, dict})),
}


class PredictInputs(NamedTuple):
    """The tensors of a request, and whether they came in row form (`instances`), which the answer then takes too."""

    tensors: dict[str, TensorProto]
    row_form: bool


def parse_body(body: bytes | bytearray) -> dict[str, Any]:
    """The JSON object of a request body; NaN, Inf and Infinity are numbers, as TensorFlow Serving reads them.

    Raises:
        RequestError: INVALID_ARGUMENT if it isn't JSON, isn't an object, or has more values than are accepted.
    """
    if not body:
        raise invalid_argument("JSON Parse error: The document is empty")
    # Every value but the first follows one of these characters, so that memory is bounded before it is taken.
    values = body.count(b",") + body.count(b"[") + body.count(b"{")
    if values > MAX_INPUT_ELEMENTS:
        raise invalid_argument(f"JSON body has {values} commas and brackets; at most {MAX_INPUT_ELEMENTS} are accepted")
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if error.doc[error.pos : error.pos + 1] not in ("N", "I"):
            raise _parse_error(error.msg, error.pos) from None
        document = _parse_not_finite(error.doc)
    if not isinstance(document, dict):
        raise invalid_argument(f"JSON Value: {_shown(document)} Is not object")
    return document


def signature_name(document: Mapping[str, Any]) -> str:
    """The signature asked for; empty for the default one.

    Raises:
        RequestError: INVALID_ARGUMENT if it isn't a string.
    """
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid_argument(
            f"JSON Value: {_shown(document)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return name


def predict_inputs(document: Mapping[str, Any], signature: SignatureDef) -> PredictInputs:
    """The tensors of a `:predict` body, typed as the signature says. Inputs with a default may be left out.

    Raises:
        RequestError: INVALID_ARGUMENT for a body that doesn't fit the signature; UNIMPLEMENTED for types without JSON.
    """
    if "instances" in document and "inputs" in document:
        raise invalid_argument(
            f"JSON Value: {_shown(document)} Not formatted correctly expecting only one of 'inputs' or 'instances' "
            "keys to exist "
        )
    if "instances" in document:
        instances = document["instances"]
        if not isinstance(instances, list):
            raise invalid_argument(f"JSON Value: {_shown(document)} Excepting 'instances' to be an list/array")
        if not instances:
            raise invalid_argument(f"JSON Value: {_shown(document)} No values in 'instances' array")
        return PredictInputs(_from_rows(instances, signature), row_form=True)
    if "inputs" in document:
        return PredictInputs(_from_columns(document["inputs"], signature), row_form=False)
    raise invalid_argument("Missing 'inputs' or 'instances' key")


def check_examples(document: Mapping[str, Any]) -> None:
    """Whether a `:classify` or `:regress` body has examples.

    Raises:
        RequestError: INVALID_ARGUMENT if it hasn't.
    """
    if "examples" not in document:
        problem = "When method is classify, key 'examples' is expected and was not found"
    elif not isinstance(document["examples"], list):
        problem = "Expecting 'examples' value to be an list/array"
    elif not document["examples"]:
        problem = "'examples' value is an empty array"
    else:
        return
    raise invalid_argument(f"JSON Value: {_shown(document)} {problem}")


def _from_rows(instances: list[Any], signature: SignatureDef) -> dict[str, TensorProto]:
    objects = _is_object(instances[0])
    if not objects and len(signature.inputs) > 1:
        raise invalid_argument(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    for number, instance in enumerate(instances if dict in set(map(type, instances)) else ()):
        if _is_object(instance) != objects:
            found = "Expecting value/list but got object" if not objects else "Expecting object but got list"
            raise invalid_argument(f"{found} at item {number} of input list")
    if not objects:
        (name,) = signature.inputs
        _check_large(name, instances, signature.inputs[name])
        return {name: _stacked(instances, signature.inputs[name].dtype, "")}
    _check_keys(instances, signature)
    columns = {name: [instance[name] for instance in instances] for name in instances[0]}
    for name, column in columns.items():
        _check_large(name, column, signature.inputs[name])
    return {name: _stacked(column, signature.inputs[name].dtype, f" key: {name}") for name, column in columns.items()}


def _check_keys(instances: list[dict[str, Any]], signature: SignatureDef) -> None:
    """Whether every instance names the same inputs, all of the signature's that have no default among them."""
    names = instances[0].keys()
    unknown = next((name for name in names if name not in signature.inputs), None)
    if unknown is not None:
        raise invalid_argument(
            f"Failed to process element: 0 key: {unknown} of 'instances' list. Error: INVALID_ARGUMENT: JSON object: "
            f"does not have named input: {unknown}"
        )
    if not signature.inputs.keys() - signature.defaults.keys() <= names:
        names = signature.inputs.keys()
    for number, instance in enumerate(instances):
        if instance.keys() != names:
            raise invalid_argument(
                f"Failed to process element: {number} of 'instances' list. JSON object: {_shown(instance)} "
                f"keys must be equal to: {','.join(sorted(names))}"
            )


def _stacked(items: list[Any], dtype: int, key: str) -> TensorProto:
    """One tensor of all instances' values; on an error, says which instance is at fault."""
    try:
        return _tensor(items, dtype)
    except RequestError as whole:
        shape = _shape(items[0])
        for number, item in enumerate(items):
            try:
                _tensor(item, dtype)
                _check_same_shape(shape, _shape(item))
            except RequestError as error:
                raise invalid_argument(
                    f"Failed to process element: {number}{key} of 'instances' list. Error: "
                    f"{error.code.name}: {error.message}"
                ) from None
        raise whole


def _check_same_shape(expected: Sequence[int], shape: Sequence[int]) -> None:
    if math.prod(shape) != math.prod(expected):
        raise invalid_argument(f"Expecting tensor size: {math.prod(expected)} but got: {math.prod(shape)}")
    if shape != expected:
        raise invalid_argument(
            f"Expecting shape [{','.join(map(str, expected))}] but got: [{','.join(map(str, shape))}]"
        )


def _from_columns(inputs: Any, signature: SignatureDef) -> dict[str, TensorProto]:
    if not _is_object(inputs):
        if len(signature.inputs) > 1:
            raise invalid_argument(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map"
            )
        (name,) = signature.inputs
        inputs = {name: inputs}
    # TensorFlow Serving overlooks names that the signature doesn't have. Beside an input that is missing, such a name
    # is probably the missing one misspelt, and its default would be a wrong answer.
    optional = signature.defaults.keys() if inputs.keys() <= signature.inputs.keys() else ()
    for name in sorted(signature.inputs):
        if name not in inputs and name not in optional:
            raise invalid_argument(f"Missing named input: {name} in 'inputs' object.")
    given = {name: info for name, info in signature.inputs.items() if name in inputs}
    for name, info in given.items():
        _check_large(name, inputs[name], info)
    return {name: _tensor(inputs[name], info.dtype) for name, info in given.items()}


def _check_large(alias: str, value: Any, info: TensorInfo) -> None:
    """Refuses a large value by its shape before its elements are looked at, for which all other requests would wait."""
    shape = _shape(value)
    if math.prod(shape) > _LOOKED_AT_FIRST:
        check_shape(alias, tensor_spec(info), info.dtype, shape)


def _tensor(value: Any, dtype: int) -> TensorProto:
    """A tensor of nested lists, or of a single value."""
    shape = _shape(value)
    values = _leaves(value, shape)
    kind = _TYPES.get(dtype)
    if kind is None:
        raise RequestError(
            grpc.StatusCode.UNIMPLEMENTED,
            f"Conversion of JSON Value: {_shown(value)} to type: {tf.dtypes.as_dtype(dtype).name}",
        )
    if not set(map(type, values)) <= kind.accepts:
        raise _type_error(next(value for value in values if type(value) not in kind.accepts), kind)
    proto = TensorProto(dtype=dtype)
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    if kind.numpy is np.object_:
        proto.string_val.extend(_bytes(value) for value in values)
    else:
        proto.tensor_content = _numbers(values, kind).tobytes()
    return proto


def _shape(value: Any) -> list[int]:
    """Sizes as the first element of each list has them; `_leaves` finds out whether the others agree."""
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        value = value[0] if value else None
    return shape


def _leaves(value: Any, shape: Sequence[int]) -> list[Any]:
    """The values within the lists, in order."""
    values = [value]
    for level, size in enumerate(shape):
        if not set(map(type, values)) <= {list} or not set(map(len, values)) <= {size}:
            odd = next(found for found in values if not isinstance(found, list) or len(found) != size)
            if isinstance(odd, list):
                raise invalid_argument(
                    f"Encountered list at unexpected size: {len(odd)} at level: {level} expected size: {size}"
                )
            raise invalid_argument(
                f"JSON Value: {_shown(odd)} found at incorrect level: {level + 1} in the JSON DOM. "
                f"Expected at level: {len(shape)}"
            )
        values = list(chain.from_iterable(values))
    if list in set(map(type, values)):
        raise invalid_argument(f"Encountered list at unexpected level: {len(shape)} expected < {len(shape)}")
    return values


def _numbers(values: list[Any], kind: _Type) -> np.ndarray:
    """Numbers and truth values as an array.

    Raises:
        RequestError: INVALID_ARGUMENT if one is out of the type's range, or is whole and would be rounded.
    """
    if not issubclass(kind.numpy, np.floating):
        if values and issubclass(kind.numpy, np.integer):
            range_ = np.iinfo(kind.numpy)
            if min(values) < range_.min or max(values) > range_.max:
                raise _type_error(next(value for value in values if not range_.min <= value <= range_.max), kind)
        return np.array(values, kind.numpy)
    whole = [value for value in values if type(value) is int]
    if max(map(abs, whole), default=0) > kind.largest_int:
        raise _lossy_error(next(value for value in whole if abs(value) > kind.largest_int), kind)
    wide = np.array(values, np.float64)
    too_large = np.isfinite(wide) & (np.abs(wide) > np.finfo(kind.numpy).max)
    if too_large.any():
        raise _lossy_error(values[int(np.argmax(too_large))], kind)
    return wide.astype(kind.numpy)


def _bytes(value: str | dict[str, Any]) -> bytes:
    """The bytes of a string, or of an object {"b64": …}."""
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError:
            raise invalid_argument(f"JSON Value: {_shown(value)} has an unpaired surrogate") from None
    if not _is_base64(value):
        raise invalid_argument(f"JSON Value: {_shown(value)} not formatted correctly for base64 data")
    text = "".join(value["b64"].split()).rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise invalid_argument("Unable to base64 decode") from None


def predictions_json(outputs: Mapping[str, TensorProto]) -> bytes:
    """The answer in row form: a list with one value per instance, or one object where there are several outputs.

    Raises:
        RequestError: INVALID_ARGUMENT if there is nothing to show, a type has no JSON, or the outputs differ in their
            0th dimension; RESOURCE_EXHAUSTED for more elements than are accepted.
    """
    _check_size(outputs)
    sizes: dict[str, int] = {}
    for name, tensor in sorted(outputs.items()):
        if not tensor.tensor_shape.dim:
            raise invalid_argument(f"Tensor name: {name} has no shape information ")
        sizes[name] = tensor.tensor_shape.dim[0].size
        expected = next(iter(sizes.values()))
        if sizes[name] != expected:
            raise invalid_argument(
                f"Tensor name: {name} has inconsistent batch size: {sizes[name]} expecting: {expected}"
            )
    columns = [_nested(_tokens(name, tensor), _sizes(tensor), keep=1) for name, tensor in sorted(outputs.items())]
    if not columns[0]:
        return b'{\n    "predictions": []\n}'
    if len(columns) == 1:
        return b'{\n    "predictions": [' + b", ".join(columns[0]) + b"\n    ]\n}"
    keys = [b"            " + orjson.dumps(name) + b": " for name in sizes]
    rows = (
        b"        {\n" + b",\n".join(key + value for key, value in zip(keys, row, strict=True)) + b"\n        }"
        for row in zip(*columns, strict=True)
    )
    return b'{\n    "predictions": [\n' + b",\n".join(rows) + b"\n    ]\n}"


def outputs_json(outputs: Mapping[str, TensorProto]) -> bytes:
    """The answer in column form: one tensor, or an object where there are several outputs. Raises as above."""
    _check_size(outputs)
    depth = 1 if len(outputs) == 1 else 2
    values = {
        name: _nested(_tokens(name, tensor), _sizes(tensor), 0, depth)[0] for name, tensor in sorted(outputs.items())
    }
    if len(values) == 1:
        (value,) = values.values()
        return b'{\n    "outputs": ' + value + b"\n}"
    members = b",\n".join(b"        " + orjson.dumps(name) + b": " + value for name, value in values.items())
    return b'{\n    "outputs": {\n' + members + b"\n    }\n}"


def _check_size(outputs: Mapping[str, TensorProto]) -> None:
    if not outputs:
        raise invalid_argument("Cannot convert empty tensor map to JSON")
    elements = sum(math.prod(_sizes(tensor)) for tensor in outputs.values())
    if elements > MAX_INPUT_ELEMENTS:
        raise RequestError(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            f"the answer has {elements} elements; over REST at most {MAX_INPUT_ELEMENTS} are sent. Use gRPC.",
        )


def _sizes(tensor: TensorProto) -> list[int]:
    return [dim.size for dim in tensor.tensor_shape.dim]


def _tokens(name: str, tensor: TensorProto) -> list[bytes]:
    """Each element of a tensor as JSON, in order."""
    if tensor.dtype == tf.string.as_datatype_enum:
        if name.endswith("_bytes"):
            return [b'{"b64": "' + base64.b64encode(value) + b'"}' for value in tensor.string_val]
        return [_text(value) for value in tensor.string_val]
    values = flat_array(tensor, math.prod(_sizes(tensor))).ravel()
    if values.dtype == np.float16:
        values = values.astype(np.float32)
    if tensor.dtype not in _TYPES and values.dtype != np.float32:
        raise invalid_argument(f"Failed to write JSON value for tensor type: {tf.dtypes.as_dtype(tensor.dtype).name}")
    if not values.size:
        return []
    tokens = orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")
    if values.dtype.kind == "f":
        for place in np.flatnonzero(~np.isfinite(values)):
            tokens[place] = b"NaN" if np.isnan(values[place]) else b"Infinity" if values[place] > 0 else b"-Infinity"
    return tokens


def _text(value: bytes) -> bytes:
    """A JSON string; bytes that aren't UTF-8 are passed on as they are, as TensorFlow Serving does."""
    try:
        return orjson.dumps(value.decode())
    except UnicodeDecodeError:
        text = json.dumps(value.decode(errors="surrogateescape"), ensure_ascii=False)
        return text.encode(errors="surrogateescape")


def _nested(tokens: list[bytes], shape: Sequence[int], keep: int, depth: int | None = None) -> list[bytes]:
    """Elements joined to lists.

    Args:
        tokens: the elements of a tensor, in order.
        shape: the tensor's.
        keep: dimensions that aren't joined; one text is returned for each of their positions.
        depth: how deep the lists stand in the document, each element on a line of its own; None = all on one line.
    """
    for level in reversed(range(keep, len(shape))):
        if depth is None:
            before, between, after = b"[", b", ", b"]"
        else:
            indent = b"    " * (depth + level)
            before, between, after = b"[\n    " + indent, b",\n    " + indent, b"\n" + indent + b"]"
        size = shape[level]
        if size:
            groups = (tokens[start : start + size] for start in range(0, len(tokens), size))
            tokens = [before + between.join(group) + after for group in groups]
        else:
            tokens = [b"[]"] * math.prod(shape[:level])
    return tokens


def status_json(response: GetModelStatusResponse) -> bytes:
    """The versions of a model, as protobuf's JSON writer prints them."""
    return (_message_json(response) + "\n").encode()


def metadata_json(response: GetModelMetadataResponse) -> bytes:
    """The signatures of a version; the packed message is shown unpacked.

    Raises:
        KeyError: the response has no `signature_def`.
    """
    signatures = SignatureDefMap()
    response.metadata["signature_def"].Unpack(signatures)
    return (
        f'{{\n"model_spec":{_message_json(response.model_spec)}\n,\n'
        f'"metadata": {{"signature_def": {_message_json(signatures)}\n}}\n}}\n'
    ).encode()


def _message_json(message: Message) -> str:
    return MessageToJson(message, **_PRINTED)


def error_json(message: str) -> bytes:
    """The body of an error."""
    # A message may quote what a client sent, unpaired surrogates included.
    text = message.encode(errors="backslashreplace").decode()
    return b'{\n    "error": ' + orjson.dumps(text) + b"\n}"


def _parse_not_finite(text: str) -> dict[str, Any]:
    """JSON with NaN and infinities, which the fast parser refuses."""

    def spell(match: re.Match[str]) -> str:
        string, sign, token = match.groups()
        if string is not None:
            return string
        return "NaN" if token == "NaN" else f"{sign}Infinity"

    def integer(digits: str) -> float:
        number = float(digits)
        return int(digits) if abs(number) < 1 << 64 else number

    try:
        return json.loads(_NOT_FINITE.sub(spell, text), parse_int=integer)
    except json.JSONDecodeError as error:
        raise _parse_error(error.msg, error.pos) from None
    except RecursionError:
        raise _parse_error("depth limit exceeded", len(text)) from None


def _parse_error(reason: str, offset: int) -> RequestError:
    return invalid_argument(f"JSON Parse error: {_PARSE_ERRORS.get(reason, 'Invalid value.')} at offset: {offset}")


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"b64"} and isinstance(value["b64"], str)


def _is_object(value: Any) -> bool:
    """Whether it is an object that names tensors, not a single string in base64."""
    return isinstance(value, dict) and not _is_base64(value)


def _type_error(value: Any, kind: _Type) -> RequestError:
    found = str(value) if isinstance(value, bool) else _JSON_TYPES[type(value)]
    return invalid_argument(f"JSON Value: {_shown(value)} Type: {found} is not of expected type: {kind.name}")


def _lossy_error(value: float, kind: _Type) -> RequestError:
    return invalid_argument(f"Cannot convert JSON value: {_shown(value)} to {kind.name} without loss of precision.")


def _shown(value: Any) -> str:
    """A value in a message, shortened."""
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, float) else _dumped(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def _dumped(value: Any) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        # Unpaired surrogates, or nested deeper than orjson writes.
        return repr(value)
