"""What the REST port answers, and how it refuses. A missing input's default is not asked for: TensorFlow Serving fills
it in over gRPC only."""

import base64
import http.client
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis.predict_pb2 import PredictRequest

from tests.conformance.conftest import Server

ONE = {"instances": [{"x": [1.0, 2.0], "shift": 0.0}]}
Ask = Callable[..., tuple[int, Any]]


@pytest.fixture(scope="session")
def rest(server: Server) -> str:
    """HOST:PORT of the REST port."""
    if server.rest is None:
        pytest.fail("CONFORMANCE_TARGET is set, but its REST port isn't: set CONFORMANCE_REST_TARGET=HOST:PORT.")
    return server.rest


@pytest.fixture(scope="session")
def ask(rest: str) -> Ask:
    """Sends a request; gives its status and the JSON of the answer."""

    def send(method: str, path: str, body: object = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(rest, timeout=20)
        try:
            connection.request(method, path, body if isinstance(body, str | None) else json.dumps(body))
            response = connection.getresponse()
            assert response.headers.get_content_type() == "application/json"
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    return send


def test_row_form_answers_predictions(ask: Ask) -> None:
    body = {"instances": [{"x": [1, 2], "shift": 0}, {"x": [3, 4], "shift": 1}]}
    # Version 2 is y = 3x + shift.
    assert ask("POST", "/v1/models/scaler:predict", body) == (
        200,
        {"predictions": [{"y": [3.0, 6.0], "total": 9.0}, {"y": [10.0, 13.0], "total": 23.0}]},
    )


def test_column_form_answers_outputs(ask: Ask) -> None:
    body = {"signature_name": "serving_default", "inputs": {"x": [[1, 2], [3, 4]], "shift": [0, 1]}}
    assert ask("POST", "/v1/models/scaler:predict", body) == (
        200,
        {"outputs": {"y": [[3.0, 6.0], [10.0, 13.0]], "total": [9.0, 23.0]}},
    )


def test_single_input_and_output_need_no_names(ask: Ask) -> None:
    rows = {"signature_name": "greet", "instances": ["Ann", "Zoë"]}
    columns = {"signature_name": "greet", "inputs": ["Ann", "Zoë"]}
    greetings = ["hello Ann", "hello Zoë"]
    assert ask("POST", "/v1/models/scaler:predict", rows) == (200, {"predictions": greetings})
    assert ask("POST", "/v1/models/scaler:predict", columns) == (200, {"outputs": greetings})


def test_strings_may_be_base64(ask: Ask) -> None:
    name = {"b64": base64.b64encode("Zoë".encode()).decode()}
    for key, answer in (("instances", "predictions"), ("inputs", "outputs")):
        body = {"signature_name": "greet", key: [name]}
        assert ask("POST", "/v1/models/scaler:predict", body) == (200, {answer: ["hello Zoë"]})


def test_numbers_may_be_infinite_or_none(ask: Ask) -> None:
    body = '{"inputs": {"x": [[NaN, -Infinity]], "shift": [0]}}'
    status, answer = ask("POST", "/v1/models/scaler:predict", body)
    assert status == 200
    assert np.isnan(answer["outputs"]["y"][0][0])
    assert answer["outputs"]["y"][0][1] == -np.inf


def test_rest_and_grpc_agree(ask: Ask, server: Server, request_for: Callable[..., PredictRequest]) -> None:
    x = np.random.default_rng(1).normal(size=(5, 2)).astype(np.float32)
    shift = np.arange(5, dtype=np.float32) / 7
    _, answer = ask("POST", "/v1/models/scaler:predict", {"inputs": {"x": x.tolist(), "shift": shift.tolist()}})
    outputs = server.predict(request_for(x=x, shift=shift)).outputs
    for name in ("y", "total"):
        np.testing.assert_array_equal(np.float32(answer["outputs"][name]), tf.make_ndarray(outputs[name]))


def test_version_is_asked_by_path(ask: Ask) -> None:
    _, answer = ask("POST", "/v1/models/scaler/versions/1:predict", ONE)
    assert answer["predictions"][0]["y"] == [2.0, 4.0]


def test_status_is_the_proto_in_json(ask: Ask) -> None:
    ok = {"error_code": "OK", "error_message": ""}
    assert ask("GET", "/v1/models/scaler") == (
        200,
        {
            "model_version_status": [
                {"version": "2", "state": "AVAILABLE", "status": ok},
                {"version": "1", "state": "AVAILABLE", "status": ok},
            ]
        },
    )
    assert ask("GET", "/v1/models/scaler/versions/1")[1]["model_version_status"][0]["version"] == "1"


def test_metadata_is_the_signatures_in_json(ask: Ask) -> None:
    status, answer = ask("GET", "/v1/models/scaler/metadata")
    assert status == 200
    assert (answer["model_spec"]["name"], answer["model_spec"]["version"]) == ("scaler", "2")
    default = answer["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert default["inputs"]["x"]["dtype"] == "DT_FLOAT"
    assert [dim["size"] for dim in default["inputs"]["x"]["tensor_shape"]["dim"]] == ["-1", "2"]
    assert default["method_name"] == "tensorflow/serving/predict"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("POST", "/v1/models/scaler:predict", "", 400, "JSON Parse error: The document is empty"),
        ("POST", "/v1/models/scaler:predict", "instances", 400, "JSON Parse error: Invalid value."),
        ("POST", "/v1/models/scaler:predict", {}, 400, "Missing 'inputs' or 'instances' key"),
        ("POST", "/v1/models/scaler:predict", {"inputs": {"shift": [1]}}, 400, "Missing named input: x"),
        ("POST", "/v1/models/scaler:predict", {"instances": [], "inputs": []}, 400, "Not formatted correctly"),
        ("POST", "/v1/models/scaler:predict", {"instances": []}, 400, "No values in 'instances' array"),
        ("POST", "/v1/models/scaler:predict", {"instances": [[1, 2]]}, 400, "instances is a plain list"),
        (
            "POST",
            "/v1/models/scaler:predict",
            {"instances": [{"x": ["a", "b"], "shift": 0}]},
            400,
            "is not of expected type: float",
        ),
        (
            "POST",
            "/v1/models/scaler:predict",
            {"instances": [{"x": [1, 2], "shift": 0}, {"x": [1], "shift": 0}]},
            400,
            "Expecting tensor size: 2 but got: 1",
        ),
        ("POST", "/v1/models/scaler:predict", {"inputs": {"x": [[1, 2, 3]], "shift": [0]}}, 400, ""),
        (
            "POST",
            "/v1/models/scaler:predict",
            {"signature_name": "rank", "inputs": [1]},
            400,
            'Serving signature name: "rank" not found in signature def',
        ),
        ("POST", "/v1/models/nobody:predict", ONE, 404, "Servable not found for request: Latest(nobody)"),
        ("POST", "/v1/models/scaler/versions/9:predict", ONE, 404, "Servable not found for request: Specific(scaler"),
        ("POST", "/v1/models/scaler/labels/x:predict", ONE, 400, "Unrecognized servable version label: x"),
        ("POST", "/v1/models/scaler", ONE, 400, "Malformed request: POST /v1/models/scaler"),
        ("GET", "/v1/models", None, 400, "Missing model name in request."),
        ("GET", "/v1/models/nobody", None, 404, "Could not find any versions of model nobody"),
        ("GET", "/v1/models/scaler/versions/9", None, 404, "Could not find version 9 of model scaler"),
        ("GET", "/v1/models/nobody/metadata", None, 404, "Servable not found for request: Latest(nobody)"),
        (
            "POST",
            "/v1/models/scaler:classify",
            {"examples": [{"x": 1.0}]},
            400,
            "",
        ),
        (
            "POST",
            "/v1/models/scaler:regress",
            {"examples": [{"x": 1.0}]},
            400,
            "",
        ),
    ],
)
def test_errors_have_a_status_and_a_message(
    ask: Ask, method: str, path: str, body: object, status: int, message: str
) -> None:
    answered, answer = ask(method, path, body)
    assert answered == status
    assert answer.keys() == {"error"}
    assert message in answer["error"]


def test_other_paths_are_not_found(rest: str) -> None:
    connection = http.client.HTTPConnection(rest, timeout=20)
    connection.request("GET", "/")
    assert connection.getresponse().status == 404
    connection.close()
