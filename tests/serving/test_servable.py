"""One version in its session: what loads, what doesn't and why, and the memory it gives back."""

import gc
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse

from serving.errors import RequestError, ServingError
from serving.predict import MAX_INPUT_ELEMENTS, decode_tensor, encode_tensor, predict
from serving.servable import Servable, TensorSpec
from serving.warmup import warm_up
from tests.serving.models import Scaler, add_warm_up, ask_for_unknown_op, publish, truncate_variables

CONFIG = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=2)
FLOATS = TensorSpec("x:0", tf.float32, (-1, 2))


def scaler_request(x: object = ((1.0, 2.0),), **inputs: object) -> PredictRequest:
    request = PredictRequest()
    request.model_spec.name = "scaler"
    for name, value in {"x": np.array(x, np.float32), **inputs}.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request


def answer(servable: Servable, request: PredictRequest) -> PredictResponse:
    return predict(servable, request, Servable.run)


@pytest.fixture
def servable(scaler: Path) -> Servable:
    return Servable(scaler, CONFIG)


def test_signature_answers(servable: Servable) -> None:
    assert answer(servable, scaler_request()).outputs["y"].float_val[:] == [2.0, 4.0]


def test_answer_is_that_of_the_model_in_process(servable: Servable, scaler: Path) -> None:
    x = np.random.default_rng(1).normal(size=(7, 2)).astype(np.float32)
    shift = np.arange(7, dtype=np.float32)
    in_process = tf.saved_model.load(str(scaler)).signatures["serving_default"](
        x=tf.constant(x), shift=tf.constant(shift)
    )
    outputs = answer(servable, scaler_request(x, shift=shift)).outputs
    for name, expected in in_process.items():
        np.testing.assert_array_equal(tf.make_ndarray(outputs[name]), expected.numpy())


def test_initialisation_of_the_graph_is_no_signature(servable: Servable) -> None:
    assert set(servable.signatures) == {"serving_default", "greet"}


def test_input_is_named_with_what_is_expected_and_received(servable: Servable) -> None:
    with pytest.raises(RequestError) as caught:
        answer(servable, scaler_request([[1.0, 2.0, 3.0]]))
    assert caught.value.message == 'input "x" must be float32 [?, 2], received float32 [1, 3]'


def test_tensor_type_that_does_not_exist_is_refused() -> None:
    with pytest.raises(RequestError, match=r'input "x" must be float32 .*received of type number 999'):
        decode_tensor("x", TensorProto(dtype=999), FLOATS)


def test_small_message_cannot_ask_for_a_huge_array() -> None:
    proto = tf.make_tensor_proto(np.zeros((1, 2), np.float32))
    proto.ClearField("tensor_content")
    proto.float_val.append(1.0)
    proto.tensor_shape.dim[0].size = 1 << 40
    with pytest.raises(RequestError, match=f"at most {MAX_INPUT_ELEMENTS} are accepted"):
        decode_tensor("x", proto, FLOATS)


@given(
    proto=st.builds(
        TensorProto,
        dtype=st.sampled_from([tf.float32.as_datatype_enum, tf.string.as_datatype_enum, tf.int64.as_datatype_enum]),
        float_val=st.lists(st.floats(width=32), max_size=5),
        int64_val=st.lists(st.integers(-5, 5), max_size=3),
        string_val=st.lists(st.binary(max_size=3), max_size=5),
        tensor_content=st.binary(max_size=20),
    ),
    shape=st.lists(st.integers(-1, 3), max_size=3),
    spec=st.sampled_from([FLOATS, TensorSpec("s:0", tf.string, (-1, 2)), TensorSpec("n:0", tf.int64, None)]),
)
def test_any_tensor_is_read_as_the_signature_says_or_refused(
    proto: TensorProto, shape: list[int], spec: TensorSpec
) -> None:
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    try:
        array = decode_tensor("x", proto, spec)
    except RequestError:
        return
    assert list(array.shape) == shape
    assert spec.accepts(proto.dtype, array.shape)


def test_string_tensor_without_values_is_empty_strings(servable: Servable) -> None:
    request = PredictRequest()
    request.model_spec.signature_name = "greet"
    request.inputs["name"].dtype = tf.string.as_datatype_enum
    request.inputs["name"].tensor_shape.dim.add(size=2)
    assert answer(servable, request).outputs["greeting"].string_val[:] == [b"hello "] * 2


@pytest.mark.parametrize("size", [-1, -5])
def test_negative_size_is_refused(size: int) -> None:
    proto = tf.make_tensor_proto(np.zeros((1, 2), np.float32))
    proto.tensor_shape.dim[0].size = size
    with pytest.raises(RequestError, match="tensor parsing error: x"):
        decode_tensor("x", proto, FLOATS)


def test_more_bytes_than_the_shape_holds_are_refused() -> None:
    proto = tf.make_tensor_proto(np.zeros((1, 2), np.float32))
    proto.tensor_content = b"12345"
    with pytest.raises(RequestError, match="tensor parsing error: x"):
        decode_tensor("x", proto, FLOATS)


@pytest.mark.parametrize(
    "values",
    [
        np.array([[1.5, -2.0]], np.float32),
        np.array([1.5], np.float64),
        np.array([3, -4], np.int64),
        np.array([[3], [-4]], np.int32),
        np.array([True, False]),
        np.array([[b"a", "ö".encode()]], object),
        np.array([7], np.uint8),
        np.float32(3.0),
        np.zeros((0, 3), np.float32),
    ],
    ids=str,
)
def test_result_is_written_so_that_tensorflow_reads_it_back(values: np.ndarray) -> None:
    proto = TensorProto()
    encode_tensor(values, tf.as_dtype(np.asarray(values).dtype), proto)
    read = tf.make_ndarray(proto)
    np.testing.assert_array_equal(read, values)
    assert read.dtype == np.asarray(values).dtype


def test_folder_without_a_saved_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match=f"{tmp_path}: Could not find SavedModel"):
        Servable(tmp_path, CONFIG)


def test_truncated_variables_do_not_load(scaler: Path, tmp_path: Path) -> None:
    broken = truncate_variables(publish(scaler, tmp_path, 1))
    with pytest.raises(tf.errors.OpError):
        Servable(broken, CONFIG)


def test_unknown_op_does_not_load(scaler: Path, tmp_path: Path) -> None:
    broken = ask_for_unknown_op(publish(scaler, tmp_path, 1))
    with pytest.raises(tf.errors.NotFoundError, match="Op type not registered 'StringJo1n'"):
        Servable(broken, CONFIG)


def test_warm_up_replays_every_record(servable: Servable, scaler: Path, tmp_path: Path) -> None:
    directory = add_warm_up(publish(scaler, tmp_path, 1), [scaler_request()] * 3)
    assert warm_up(servable, directory, Servable.run) == 3


def test_warm_up_is_optional(servable: Servable, scaler: Path) -> None:
    assert warm_up(servable, scaler, Servable.run) == 0


def test_failing_warm_up_request_is_named(servable: Servable, scaler: Path, tmp_path: Path) -> None:
    directory = add_warm_up(publish(scaler, tmp_path, 1), [scaler_request(), scaler_request([[1.0]])])
    with pytest.raises(RequestError, match=r"tf_serving_warmup_requests, record 2: input \"x\" must be") as caught:
        warm_up(servable, directory, Servable.run)
    assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT


def test_more_than_a_thousand_warm_up_records_are_refused(servable: Servable, scaler: Path, tmp_path: Path) -> None:
    directory = add_warm_up(publish(scaler, tmp_path, 1), [scaler_request()] * 1001)
    with pytest.raises(RequestError, match=r"exceeds the maximum \(1000\)"):
        warm_up(servable, directory, Servable.run)


def test_truncated_warm_up_file_is_refused(servable: Servable, scaler: Path, tmp_path: Path) -> None:
    directory = add_warm_up(publish(scaler, tmp_path, 1), [scaler_request()])
    path = directory / "assets.extra" / "tf_serving_warmup_requests"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(tf.errors.DataLossError):
        warm_up(servable, directory, Servable.run)


def test_number_of_output_filters_does_not_grow_the_memory_without_bound(servable: Servable) -> None:
    from serving import servable as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_MAX_CALLABLES", len(servable._callables))
        request = scaler_request()
        request.output_filter.append("total")
        assert list(answer(servable, request).outputs) == ["total"]
    assert len(servable._callables) == len(servable.signatures)


def resident_megabytes() -> float:
    return psutil.Process().memory_info().rss / 2**20


@pytest.fixture
def little_to_collect() -> Iterator[None]:
    """As the server does: what is alive now is no garbage, which makes each collection a matter of milliseconds."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("little_to_collect")
def test_memory_returns_after_each_swap(tmp_path: Path) -> None:
    directory = Scaler(2.0, megabytes=20).save(tmp_path / "1")

    def swap(old: Servable) -> Servable:
        new = Servable(directory, CONFIG)
        answer(new, scaler_request())
        old.close()
        return new

    current = Servable(directory, CONFIG)
    for _ in range(2):
        current = swap(current)
    before = resident_megabytes()
    for _ in range(10):
        current = swap(current)
    # Ten versions of 20 MB would be 200.
    assert resident_megabytes() - before < 30
