"""What PredictionService.Predict answers, and how it refuses."""

from collections.abc import Callable

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis.classification_pb2 import ClassificationRequest
from tensorflow_serving.apis.inference_pb2 import MultiInferenceRequest
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.apis.regression_pb2 import RegressionRequest

from tests.conformance.conftest import Server

Build = Callable[..., PredictRequest]
X = np.array([[1.0, 2.0]], np.float32)


def test_newest_version_answers_and_says_so(server: Server, request_for: Build) -> None:
    response = server.predict(request_for(x=X))
    # Version 2 is y = 3x.
    assert tf.make_ndarray(response.outputs["y"]).tolist() == [[3.0, 6.0]]
    assert response.model_spec.name == "scaler"
    assert response.model_spec.version.value == 2
    assert response.model_spec.signature_name == "serving_default"


def test_older_version_answers_when_asked_for(server: Server, request_for: Build) -> None:
    response = server.predict(request_for(version=1, x=X))
    assert tf.make_ndarray(response.outputs["y"]).tolist() == [[2.0, 4.0]]
    assert response.model_spec.version.value == 1


def test_named_signature_with_strings(server: Server, request_for: Build) -> None:
    response = server.predict(request_for(signature="greet", name=["Ann", "Zoë"]))
    assert [text.decode() for text in response.outputs["greeting"].string_val] == ["hello Ann", "hello Zoë"]
    assert response.model_spec.signature_name == "greet"


def test_missing_input_gets_its_default(server: Server, request_for: Build) -> None:
    plain, shifted = server.predict(request_for(x=X)), server.predict(request_for(x=X, shift=np.float32([1.0])))
    assert plain.outputs["y"].float_val[:] == [3.0, 6.0]
    assert shifted.outputs["y"].float_val[:] == [4.0, 7.0]


def test_results_stand_in_the_value_fields_of_their_type(server: Server, request_for: Build) -> None:
    # With batching a default of one row doesn't go with two.
    outputs = server.predict(request_for(x=np.repeat(X, 2, axis=0), shift=np.zeros(2, np.float32))).outputs
    assert outputs["total"].float_val[:] == [9.0, 9.0]
    assert [dim.size for dim in outputs["y"].tensor_shape.dim] == [2, 2]


def test_tensor_content_is_read_like_values(server: Server, request_for: Build) -> None:
    request = request_for()
    request.inputs["x"].CopyFrom(tf.compat.v1.make_tensor_proto(X))
    request.inputs["x"].ClearField("float_val")
    request.inputs["x"].tensor_content = X.tobytes()
    assert server.predict(request).outputs["y"].float_val[:] == [3.0, 6.0]


def test_output_filter_chooses(server: Server, request_for: Build) -> None:
    request = request_for(x=X)
    request.output_filter.append("total")
    assert list(server.predict(request).outputs) == ["total"]


def test_unknown_output_is_refused(server: Server, request_for: Build) -> None:
    request = request_for(x=X)
    request.output_filter.append("z")
    error = server.refusal(request)
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "output tensor alias not found in signature: z" in error.details()


def test_repeated_output_is_refused(server: Server, request_for: Build) -> None:
    request = request_for(x=X)
    request.output_filter.extend(["y", "y"])
    error = server.refusal(request)
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "duplicate output tensor alias: y" in error.details()


def test_unknown_model_is_not_found(server: Server, request_for: Build) -> None:
    error = server.refusal(request_for(model="nobody", x=X))
    assert error.code() == grpc.StatusCode.NOT_FOUND
    assert error.details() == "Servable not found for request: Latest(nobody)"


def test_unknown_version_is_not_found(server: Server, request_for: Build) -> None:
    error = server.refusal(request_for(version=7, x=X))
    assert error.code() == grpc.StatusCode.NOT_FOUND
    assert error.details() == "Servable not found for request: Specific(scaler, 7)"


def test_unknown_signature_is_a_failed_precondition(server: Server, request_for: Build) -> None:
    error = server.refusal(request_for(signature="rank", x=X))
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert 'Serving signature key "rank" not found.' in error.details()


def test_unknown_version_label_is_refused(server: Server, request_for: Build) -> None:
    request = request_for(x=X)
    request.model_spec.version_label = "canary"
    error = server.refusal(request)
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == "Unrecognized servable version label: canary"


def test_request_without_model_is_refused(server: Server) -> None:
    error = server.refusal(PredictRequest())
    assert (error.code(), error.details()) == (grpc.StatusCode.INVALID_ARGUMENT, "Missing ModelSpec")


def test_missing_input_without_default_is_named(server: Server, request_for: Build) -> None:
    error = server.refusal(request_for(shift=np.float32([1.0])))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "x" in error.details()


def test_superfluous_input_is_refused(server: Server, request_for: Build) -> None:
    error = server.refusal(request_for(x=X, shift=np.float32([0.0]), speed=X))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "Sent extra: {speed}" in error.details()


@pytest.mark.parametrize(
    "wrong",
    [
        np.array([[1, 2]], np.int64),
        np.array([["a", "b"]]),
        np.array([[1.0, 2.0, 3.0]], np.float32),
        np.array([[]], np.float32),
    ],
    ids=["integers", "strings", "too wide", "empty"],
)
def test_wrong_type_or_shape_is_refused(server: Server, request_for: Build, wrong: np.ndarray) -> None:
    assert server.refusal(request_for(x=wrong)).code() == grpc.StatusCode.INVALID_ARGUMENT


def test_classification_is_refused_since_the_signature_only_predicts(server: Server) -> None:
    request = ClassificationRequest()
    request.model_spec.name = "scaler"
    request.input.example_list.examples.add()
    with pytest.raises(grpc.RpcError) as caught:
        server.prediction.Classify(request, timeout=20)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "Expected classification signature method_name to be tensorflow/serving/classify" in caught.value.details()


def test_regression_is_refused(server: Server) -> None:
    request = RegressionRequest()
    request.model_spec.name = "scaler"
    request.input.example_list.examples.add()
    with pytest.raises(grpc.RpcError) as caught:
        server.prediction.Regress(request, timeout=20)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "regress" in caught.value.details()


def test_multi_inference_of_an_unknown_model_is_not_found(server: Server) -> None:
    request = MultiInferenceRequest()
    request.tasks.add(method_name="tensorflow/serving/classify").model_spec.name = "nobody"
    with pytest.raises(grpc.RpcError) as caught:
        server.prediction.MultiInference(request, timeout=20)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
