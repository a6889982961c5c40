"""JSON bodies to tensors and tensors to JSON, as TensorFlow Serving's REST API has them."""

import base64
import json
import math
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef

from serving.errors import RequestError
from serving.rest_json import (
    check_examples,
    error_json,
    outputs_json,
    parse_body,
    predict_inputs,
    predictions_json,
    signature_name,
)


def signature(defaults: tuple[str, ...] = (), **dtypes: tf.DType) -> SignatureDef:
    """A signature with inputs of these types."""
    definition = SignatureDef()
    for name, dtype in dtypes.items():
        definition.inputs[name].dtype = dtype.as_datatype_enum
        if name in defaults:
            definition.defaults[name].CopyFrom(tf.make_tensor_proto(0, dtype=dtype))
    return definition


def arrays(body: str | bytes, definition: SignatureDef) -> dict[str, np.ndarray]:
    """The tensors of a body."""
    document = parse_body(body.encode() if isinstance(body, str) else body)
    return {name: tf.make_ndarray(tensor) for name, tensor in predict_inputs(document, definition).tensors.items()}


def refused(body: str | bytes, definition: SignatureDef) -> str:
    """The message of the INVALID_ARGUMENT that a body gets."""
    with pytest.raises(RequestError) as caught:
        arrays(body, definition)
    assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT
    return caught.value.message


def answer_or_error(call: Callable[[], dict[str, Any]]) -> dict[str, Any] | RequestError:
    """What a call returns or refuses with; any other exception is a defect."""
    try:
        return call()
    except RequestError as error:
        return error


def protos(**outputs: Any) -> dict[str, TensorProto]:
    """Outputs in the value fields of their types, as a model's answer has them."""
    made = {}
    for name, value in outputs.items():
        array = np.asarray(value)
        made[name] = tf.make_tensor_proto(array)
        if made[name].tensor_content:
            made[name].ClearField("tensor_content")
            field = {"f": "float_val", "d": "double_val", "q": "int64_val", "l": "int64_val", "i": "int_val"}
            getattr(made[name], field[array.dtype.char]).extend(array.ravel().tolist())
    return made


X = signature(x=tf.float32)
TWO = signature(x=tf.float32, shift=tf.float32)
NAMES = signature(name=tf.string)


# Row form.


def test_values_of_the_only_input_need_no_name() -> None:
    (x,) = arrays('{"instances": [[1, 2.5], [3, 4]]}', X).values()
    assert x.dtype == np.float32
    assert x.tolist() == [[1.0, 2.5], [3.0, 4.0]]


def test_instances_may_be_scalars() -> None:
    assert arrays('{"instances": [1, 2, 3]}', X)["x"].tolist() == [1.0, 2.0, 3.0]


def test_objects_name_the_inputs() -> None:
    given_ = arrays('{"instances": [{"x": [1, 2], "shift": 5}, {"shift": 6, "x": [3, 4]}]}', TWO)
    assert given_["x"].tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert given_["shift"].tolist() == [5.0, 6.0]


def test_row_form_says_that_it_is() -> None:
    assert predict_inputs({"instances": [1]}, X).row_form
    assert not predict_inputs({"inputs": [1]}, X).row_form


def test_base64_and_plain_strings_mix() -> None:
    assert arrays('{"instances": ["Zoë", {"b64": "AP8="}]}', NAMES)["name"].tolist() == ["Zoë".encode(), b"\x00\xff"]


def test_base64_needs_no_padding() -> None:
    # "AP8" is two bytes, 00 and ff; the padding says nothing more.
    assert arrays('{"instances": [{"b64": "AP8"}, {"b64": " AP8= "}]}', NAMES)["name"].tolist() == [b"\x00\xff"] * 2


def test_input_with_a_default_may_be_left_out() -> None:
    optional = signature(("shift",), x=tf.float32, shift=tf.float32)
    assert arrays('{"instances": [{"x": [1]}]}', optional).keys() == {"x"}
    assert arrays('{"inputs": {"x": [1]}}', optional).keys() == {"x"}


def test_input_without_a_default_is_asked_for() -> None:
    assert refused('{"instances": [{"x": 1}, {"x": 2}]}', TWO) == (
        "Failed to process element: 0 of 'instances' list. JSON object: {\"x\":1} keys must be equal to: shift,x"
    )
    assert refused('{"inputs": {"x": [1]}}', TWO) == "Missing named input: shift in 'inputs' object."


def test_all_instances_name_the_same_inputs() -> None:
    optional = signature(("shift",), x=tf.float32, shift=tf.float32)
    assert refused('{"instances": [{"x": 1}, {"x": 2, "shift": 3}]}', optional) == (
        'Failed to process element: 1 of \'instances\' list. JSON object: {"x":2,"shift":3} keys must be equal to: x'
    )


def test_large_value_of_a_wrong_shape_is_refused_before_its_elements_are_read() -> None:
    pairs = signature(x=tf.float32)
    for size in (-1, 2):
        pairs.inputs["x"].tensor_shape.dim.add(size=size)
    pairs.inputs["x"].tensor_shape.unknown_rank = False
    # Its elements are no numbers, which is said of small values.
    small, large = (json.dumps(["a"] * count) for count in (3, 100_000))
    assert "is not of expected type" in refused(f'{{"instances": [{small}]}}', pairs)
    expected = 'input "x" must be float32 [?, 2], received float32 [1, 100000]'
    for body in (f'{{"instances": [{large}]}}', f'{{"instances": [{{"x": {large}}}]}}', f'{{"inputs": [{large}]}}'):
        assert refused(body, pairs) == expected


def test_unknown_input_is_named() -> None:
    assert refused('{"instances": [{"y": 1}]}', X) == (
        "Failed to process element: 0 key: y of 'instances' list. Error: INVALID_ARGUMENT: JSON object: does not have "
        "named input: y"
    )


def test_misspelt_optional_input_does_not_fall_back_to_its_default() -> None:
    optional = signature(("shift",), x=tf.float32, shift=tf.float32)
    assert refused('{"inputs": {"x": [1], "shft": [2]}}', optional) == "Missing named input: shift in 'inputs' object."


def test_instance_of_another_shape_is_named() -> None:
    prefix = "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: "
    assert refused('{"instances": [[1, 2], [3]]}', X) == f"{prefix}Expecting tensor size: 2 but got: 1"
    assert refused('{"instances": [[[1, 2]], [[3], [4]]]}', X) == f"{prefix}Expecting shape [1,2] but got: [2,1]"


def test_value_of_another_type_is_named_with_its_instance_and_key() -> None:
    assert refused('{"instances": [{"x": 1, "shift": 1}, {"x": 1, "shift": "a"}]}', TWO) == (
        "Failed to process element: 1 key: shift of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: \"a\" "
        "Type: String is not of expected type: float"
    )


def test_lists_and_objects_do_not_mix() -> None:
    assert refused('{"instances": [{"x": 1}, [1]]}', X) == "Expecting object but got list at item 1 of input list"
    assert refused('{"instances": [[1], {"x": 1}]}', X) == "Expecting value/list but got object at item 1 of input list"


def test_several_inputs_need_names() -> None:
    for body in ('{"instances": [[1, 2]]}', '{"instances": [{"b64": "AP8="}]}'):
        assert refused(body, TWO).startswith("instances is a plain list, but expecting list of objects as multiple")
    assert refused('{"inputs": [1]}', TWO).startswith("inputs is a plain value/list, but expecting an object as")


def test_instances_are_a_list_that_is_not_empty() -> None:
    assert refused('{"instances": 1}', X).endswith("Excepting 'instances' to be an list/array")
    assert refused('{"instances": []}', X) == "JSON Value: {\"instances\":[]} No values in 'instances' array"


# Column form.


def test_columns_have_shapes_of_their_own() -> None:
    given_ = arrays('{"inputs": {"x": [[1, 2], [3, 4]], "shift": 7}}', TWO)
    assert given_["x"].shape == (2, 2)
    assert given_["shift"].shape == ()
    assert given_["shift"] == 7.0


def test_only_input_needs_no_name_in_column_form() -> None:
    assert arrays('{"inputs": [[1], [2]]}', X)["x"].tolist() == [[1.0], [2.0]]
    assert arrays('{"inputs": {"b64": "aGk="}}', NAMES)["name"].item() == b"hi"


def test_names_beside_the_signature_are_overlooked_in_column_form() -> None:
    assert arrays('{"inputs": {"x": [1], "shift": [2], "comment": "?"}}', TWO).keys() == {"x", "shift"}


def test_empty_lists_are_shapes_too() -> None:
    assert arrays('{"inputs": []}', X)["x"].shape == (0,)
    assert arrays('{"inputs": [[], []]}', X)["x"].shape == (2, 0)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[[1, 2], [3]]", "Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
        ("[[1], 2]", "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2"),
        ("[1, [2]]", "Encountered list at unexpected level: 1 expected < 1"),
    ],
)
def test_ragged_lists_are_refused(value: str, message: str) -> None:
    assert refused(f'{{"inputs": {value}}}', X) == message


def test_both_forms_at_once_are_refused() -> None:
    assert refused('{"instances": [1], "inputs": [1]}', X) == (
        'JSON Value: {"instances":[1],"inputs":[1]} Not formatted correctly expecting only one of \'inputs\' or '
        "'instances' keys to exist "
    )


def test_one_form_is_needed() -> None:
    assert refused('{"signature_name": "x"}', X) == "Missing 'inputs' or 'instances' key"


# Types.


@pytest.mark.parametrize(
    ("dtype", "text", "value"),
    [
        (tf.int64, "9223372036854775807", 9223372036854775807),
        (tf.int64, "-9223372036854775808", -9223372036854775808),
        (tf.uint64, "18446744073709551615", 18446744073709551615),
        (tf.int32, "-2147483648", -2147483648),
        (tf.uint8, "255", 255),
        (tf.float64, "9007199254740991", 9007199254740991.0),
        (tf.float32, "16777215", 16777215.0),
        (tf.float32, "3.4028234e38", np.finfo(np.float32).max),
        (tf.bool, "true", True),
    ],
)
def test_largest_values_are_kept(dtype: tf.DType, text: str, value: float) -> None:
    x = arrays(f'{{"inputs": [{text}]}}', signature(x=dtype))["x"]
    assert x.dtype == dtype.as_numpy_dtype
    assert x.tolist() == [value]


@pytest.mark.parametrize(
    ("dtype", "text", "message"),
    [
        (
            tf.int64,
            "9223372036854775808",
            "JSON Value: 9223372036854775808 Type: Number is not of expected type: int64",
        ),
        (tf.int64, "1.0", "JSON Value: 1.0 Type: Number is not of expected type: int64"),
        (tf.uint8, "256", "JSON Value: 256 Type: Number is not of expected type: uint8"),
        (tf.int32, '"1"', 'JSON Value: "1" Type: String is not of expected type: int32'),
        (tf.int64, "true", "JSON Value: true Type: True is not of expected type: int64"),
        (tf.float32, "false", "JSON Value: false Type: False is not of expected type: float"),
        (tf.float32, "null", "JSON Value: null Type: Null is not of expected type: float"),
        (tf.float32, "{}", "JSON Value: {} Type: Object is not of expected type: float"),
        (tf.bool, "1", "JSON Value: 1 Type: Number is not of expected type: bool"),
        (tf.string, "1", "JSON Value: 1 Type: Number is not of expected type: string"),
        (tf.string, '{"b65": ""}', 'JSON Value: {"b65":""} not formatted correctly for base64 data'),
        (tf.string, '{"b64": "*"}', "Unable to base64 decode"),
        (tf.float32, "16777216", "Cannot convert JSON value: 16777216 to float without loss of precision."),
        (tf.float32, "-16777217", "Cannot convert JSON value: -16777217 to float without loss of precision."),
        (tf.float32, "1e39", "Cannot convert JSON value: 1e+39 to float without loss of precision."),
        (
            tf.float64,
            "9007199254740993",
            "Cannot convert JSON value: 9007199254740993 to double without loss of precision.",
        ),
    ],
)
def test_values_that_do_not_fit_are_refused(dtype: tf.DType, text: str, message: str) -> None:
    assert refused(f'{{"inputs": [{text}]}}', signature(x=dtype)) == message


def test_types_without_json_are_unimplemented() -> None:
    with pytest.raises(RequestError, match="Conversion of JSON Value: \\[1\\] to type: complex64") as caught:
        arrays('{"inputs": [1]}', signature(x=tf.complex64))
    assert caught.value.code == grpc.StatusCode.UNIMPLEMENTED


def test_numbers_may_be_infinite_or_none() -> None:
    body = '{"inputs": [NaN, -NaN, Inf, -Inf, Infinity, -Infinity, 1e3], "why": "NaN \\" Inf"}'
    x = arrays(body, X)["x"]
    assert np.isnan(x[:2]).all()
    assert x[2:].tolist() == [math.inf, -math.inf, math.inf, -math.inf, 1000.0]


def test_strings_stay_as_they_are_beside_infinite_numbers() -> None:
    both = signature(x=tf.float32, name=tf.string)
    given_ = arrays('{"instances": [{"x": Infinity, "name": "-Inf \\u00eb NaN, \\"Inf\\""}]}', both)
    assert given_["name"].tolist() == ['-Inf ë NaN, "Inf"'.encode()]


def test_long_messages_are_cut() -> None:
    assert len(refused(json.dumps({"signature": "x" * 10_000, "instances": 1}), X)) < 400


# What isn't JSON.


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "JSON Parse error: The document is empty"),
        (b"instances = [1]", "JSON Parse error: Invalid value. at offset: 0"),
        (b'{"instances": [1}', "JSON Parse error: Missing a comma or ']' after an array element. at offset: 16"),
        (b'{"instances" [1]}', "JSON Parse error: Missing a colon after a name of object member. at offset: 13"),
        (b'{"instances": 1 2}', "JSON Parse error: Missing a comma or '}' after an object member. at offset: 16"),
        (b"{instances: 1}", "JSON Parse error: Missing a name for object member. at offset: 1"),
        (b"{} {}", "JSON Parse error: The document root must not be followed by other values. at offset: 3"),
        (b'{"instances": [1e999]}', "JSON Parse error: Number too big to be stored in double. at offset: 15"),
        (b'{"instances": ["\xff"]}', "JSON Parse error: Invalid encoding in string. at offset: 0"),
        (b'{"instances": ["\\ud800"]}', "JSON Parse error: The surrogate pair in string is invalid. at offset: 16"),
        (b'{"instances": NaN, x}', "JSON Parse error: Invalid value. at offset: 19"),
        (b"[" * 3000, "JSON Parse error: Nested deeper than 1024 levels. at offset: 1025"),
        (b'{"x": NaN, "y":' + b"[" * 100_000, "JSON Parse error: Nested deeper than 1024 levels."),
        (b"[1]", "JSON Value: [1] Is not object"),
        (b"NaN", "JSON Value: NaN Is not object"),
    ],
)
def test_what_is_not_a_json_object_is_refused(body: bytes, message: str) -> None:
    assert refused(body, X).startswith(message)


def test_unpaired_surrogate_beside_nan_is_refused() -> None:
    both = signature(x=tf.float32, name=tf.string)
    assert refused('{"instances": [{"x": NaN, "name": "\\ud800"}]}', both).endswith("has an unpaired surrogate")


def test_too_many_values_are_refused_before_they_are_parsed() -> None:
    message = refused(b'{"instances": [' + b"[]," * (1 << 22) + b"[]]}", X)
    # Per element a comma and a bracket, and the outer two and the last.
    assert message == f"JSON body has {(1 << 23) + 3} commas and brackets; at most {1 << 22} are accepted"


def test_signature_name_is_a_string() -> None:
    assert signature_name({"signature_name": "rank"}) == "rank"
    assert signature_name({}) == ""
    with pytest.raises(RequestError, match="'signature_name' key must be a string value"):
        signature_name({"signature_name": 1})


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, "When method is classify, key 'examples' is expected and was not found"),
        ({"examples": 1}, "Expecting 'examples' value to be an list/array"),
        ({"examples": []}, "'examples' value is an empty array"),
    ],
)
def test_examples_are_a_list_that_is_not_empty(document: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        check_examples(document)
    check_examples({"examples": [{}]})


# Answers.


def test_single_output_stands_without_its_name() -> None:
    assert predictions_json(protos(y=np.float32([2.5, 3.0, 0.1]))) == b'{\n    "predictions": [2.5, 3.0, 0.1\n    ]\n}'
    assert outputs_json(protos(y=np.float32([2.5, 3.0]))) == (
        b'{\n    "outputs": [\n        2.5,\n        3.0\n    ]\n}'
    )


def test_several_outputs_stand_in_objects() -> None:
    outputs = protos(y=np.float32([[1, 2], [3, 4]]), n=np.int64([7, 8]))
    assert (
        predictions_json(outputs).decode()
        == """{
    "predictions": [
        {
            "n": 7,
            "y": [1.0, 2.0]
        },
        {
            "n": 8,
            "y": [3.0, 4.0]
        }
    ]
}"""
    )
    assert (
        outputs_json(outputs).decode()
        == """{
    "outputs": {
        "n": [
            7,
            8
        ],
        "y": [
            [
                1.0,
                2.0
            ],
            [
                3.0,
                4.0
            ]
        ]
    }
}"""
    )


def test_floats_that_are_no_numbers_are_written_out() -> None:
    outputs = protos(y=np.float32([np.nan, np.inf, -np.inf, 1]))
    assert predictions_json(outputs) == b'{\n    "predictions": [NaN, Infinity, -Infinity, 1.0\n    ]\n}'


def test_bytes_are_base64_by_their_name() -> None:
    assert json.loads(predictions_json(protos(raw_bytes=[b"\x00\xff"]))) == {"predictions": [{"b64": "AP8="}]}
    assert json.loads(predictions_json(protos(raw=['Zoë "x"'.encode()]))) == {"predictions": ['Zoë "x"']}


def test_text_that_is_not_utf8_is_passed_on() -> None:
    assert b'["a\xff\\""\n' in predictions_json(protos(raw=[b'a\xff"']))


def test_outputs_of_a_row_share_their_first_dimension() -> None:
    with pytest.raises(RequestError, match="Tensor name: y has inconsistent batch size: 1 expecting: 2"):
        predictions_json(protos(n=[1, 2], y=[1]))
    with pytest.raises(RequestError, match="Tensor name: y has no shape information "):
        predictions_json(protos(y=1))
    assert json.loads(outputs_json(protos(n=[1, 2], y=1))) == {"outputs": {"n": [1, 2], "y": 1}}


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0), (2, 0, 3), (2, 3, 0)])
def test_answers_without_elements_keep_their_shape(shape: tuple[int, ...]) -> None:
    empty = np.zeros(shape, np.float32)
    assert json.loads(outputs_json(protos(y=empty)))["outputs"] == empty.tolist()
    assert json.loads(predictions_json(protos(y=empty)))["predictions"] == empty.tolist()


def test_answer_of_nothing_is_an_error() -> None:
    with pytest.raises(RequestError, match="Cannot convert empty tensor map to JSON"):
        predictions_json({})
    with pytest.raises(RequestError, match="Failed to write JSON value for tensor type: complex64"):
        outputs_json({"y": tf.make_tensor_proto(np.complex64([1j]))})


def test_answers_are_bounded() -> None:
    proto = TensorProto(dtype=tf.float32.as_datatype_enum, float_val=[0.0])
    proto.tensor_shape.dim.add(size=(1 << 22) + 1)
    with pytest.raises(RequestError, match="at most 4194304 are sent") as caught:
        outputs_json({"y": proto})
    assert caught.value.code == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_error_may_quote_anything() -> None:
    assert error_json('no "x"\n') == b'{\n    "error": "no \\"x\\"\\n"\n}'
    assert json.loads(error_json("\ud800")) == {"error": "\\ud800"}


# Round trips against Python's own JSON and NumPy.

_ARRAYS = st.sampled_from([np.float32, np.float64, np.int64, np.int32, np.bool_]).flatmap(
    lambda dtype: npst.arrays(
        dtype,
        npst.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=4),
        elements=None if dtype not in (np.float32, np.float64) else st.floats(width=32, allow_nan=False),
    )
)
_TEXTS = npst.arrays(object, npst.array_shapes(max_dims=3, max_side=3), elements=st.text(max_size=8))


@settings(max_examples=80)
@given(_ARRAYS)
def test_numbers_survive_both_ways(array: np.ndarray) -> None:
    dtype = tf.as_dtype(array.dtype)
    # Whole floats are written as floats: as integers they might be too large to be exact.
    body = json.dumps({"inputs": array.tolist()})
    rows = json.dumps({"instances": [{"x": row} for row in array.tolist()]})
    for text in (body, rows):
        back = arrays(text, signature(x=dtype))["x"]
        assert back.dtype == array.dtype
        np.testing.assert_array_equal(back, array)
    outputs = {"x": tf.make_tensor_proto(array)}
    for key, written in (("outputs", outputs_json(outputs)), ("predictions", predictions_json(outputs))):
        shown = np.array(json.loads(written)[key], array.dtype)
        np.testing.assert_array_equal(shown, array)


@settings(max_examples=80)
@given(_TEXTS)
def test_texts_survive_both_ways(texts: np.ndarray) -> None:
    encoded = [base64.b64encode(text.encode()).decode() for text in texts.ravel()]
    in_base64 = np.array([{"b64": text} for text in encoded], object).reshape(texts.shape)
    for key, value in (("inputs", texts), ("instances", texts), ("inputs", in_base64), ("instances", in_base64)):
        back = arrays(json.dumps({key: value.tolist()}), NAMES)["name"]
        assert back.shape == texts.shape
        assert [text.decode() for text in back.ravel()] == texts.ravel().tolist()
    raw = np.array([text.encode() for text in texts.ravel()], object).reshape(texts.shape)
    outputs = {"x": tf.make_tensor_proto(raw, shape=texts.shape), "x_bytes": tf.make_tensor_proto(raw)}
    columns = json.loads(outputs_json(outputs))["outputs"]
    rows = json.loads(predictions_json(outputs))["predictions"]
    assert columns["x"] == [row["x"] for row in rows] == texts.tolist()
    assert columns["x_bytes"] == [row["x_bytes"] for row in rows] == in_base64.tolist()


@settings(max_examples=200)
@given(st.binary(max_size=60) | st.text(alphabet='{}[]",:1eNaInf-. x\\u', max_size=40).map(str.encode))
def test_any_bytes_are_an_object_or_refused(body: bytes) -> None:
    outcome = answer_or_error(lambda: parse_body(body))
    assert isinstance(outcome, dict) or outcome.code == grpc.StatusCode.INVALID_ARGUMENT


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 65), 1 << 65) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["x", "name", "b64"]), inner),
    max_leaves=12,
)


@settings(max_examples=200)
@given(st.sampled_from(["instances", "inputs"]), _VALUES, st.sampled_from([X, NAMES, TWO]))
def test_any_json_makes_tensors_or_is_refused(key: str, value: Any, definition: SignatureDef) -> None:
    outcome = answer_or_error(lambda: arrays(json.dumps({key: value}), definition))
    if isinstance(outcome, RequestError):
        assert outcome.code == grpc.StatusCode.INVALID_ARGUMENT
        assert json.loads(error_json(outcome.message)).keys() == {"error"}
        return
    assert outcome.keys() <= set(definition.inputs)
    assert key == "inputs" or len({array.shape[:1] for array in outcome.values()}) == 1
