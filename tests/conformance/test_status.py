"""What ModelService.GetModelStatus and PredictionService.GetModelMetadata say."""

import grpc
import pytest
from tensorflow_serving.apis.get_model_metadata_pb2 import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    SignatureDefMap,
)
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest, ModelVersionStatus

from tests.conformance.conftest import Server


def status_request(model: str, version: int | None = None) -> GetModelStatusRequest:
    request = GetModelStatusRequest()
    request.model_spec.name = model
    if version is not None:
        request.model_spec.version.value = version
    return request


def metadata(server: Server, *fields: str, model: str = "scaler") -> GetModelMetadataResponse:
    request = GetModelMetadataRequest(metadata_field=fields)
    request.model_spec.name = model
    return server.prediction.GetModelMetadata(request, timeout=20)


def test_all_versions_are_listed_newest_first(server: Server) -> None:
    entries = server.status.GetModelStatus(status_request("scaler"), timeout=20).model_version_status
    assert [(entry.version, entry.state) for entry in entries] == [
        (2, ModelVersionStatus.AVAILABLE),
        (1, ModelVersionStatus.AVAILABLE),
    ]
    assert all(entry.status.error_code == 0 and entry.status.error_message == "" for entry in entries)


def test_one_version_can_be_asked_for(server: Server) -> None:
    (entry,) = server.status.GetModelStatus(status_request("scaler", 1), timeout=20).model_version_status
    assert entry.version == 1


def test_status_of_an_unknown_version_is_not_found(server: Server) -> None:
    with pytest.raises(grpc.RpcError, match="Could not find version 9 of model scaler") as caught:
        server.status.GetModelStatus(status_request("scaler", 9), timeout=20)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_status_of_an_unknown_model_is_not_found(server: Server) -> None:
    with pytest.raises(grpc.RpcError, match="Could not find any versions of model nobody") as caught:
        server.status.GetModelStatus(status_request("nobody"), timeout=20)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_metadata_describes_the_signatures(server: Server) -> None:
    response = metadata(server, "signature_def")
    signatures = SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    default = signatures.signature_def["serving_default"]
    assert [dim.size for dim in default.inputs["x"].tensor_shape.dim] == [-1, 2]
    assert default.defaults["shift"].float_val[:] == [0.0]
    assert set(default.outputs) == {"y", "total"}
    assert (response.model_spec.name, response.model_spec.version.value) == ("scaler", 2)


def test_metadata_needs_a_field(server: Server) -> None:
    with pytest.raises(grpc.RpcError, match="must specify at least one metadata_field") as caught:
        metadata(server)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_unknown_metadata_field_is_refused(server: Server) -> None:
    with pytest.raises(grpc.RpcError, match="is not supported") as caught:
        metadata(server, "weights")
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_metadata_of_an_unknown_model_is_not_found(server: Server) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        metadata(server, "signature_def", model="nobody")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
