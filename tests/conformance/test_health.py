"""grpc.health.v1: SERVING for the server as a whole, not per model."""

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from tests.conformance.conftest import Server


def test_server_is_serving(server: Server) -> None:
    assert server.health.Check(HealthCheckRequest(), timeout=20).status == HealthCheckResponse.SERVING


def test_model_is_no_service(server: Server) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        server.health.Check(HealthCheckRequest(service="scaler"), timeout=20)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
