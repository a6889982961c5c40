"""A new configuration by ModelService.HandleReloadConfigRequest: it replaces the old one, and labels move with it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest, ModelVersionStatus
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.config.model_server_config_pb2 import ModelConfig, ModelServerConfig

from tests.conformance.conftest import Server
from tests.serving.models import publish

X = np.array([[1.0, 2.0]], np.float32)
Build = Callable[..., PredictRequest]
Saved = Callable[[float], Path]


@pytest.fixture
def config(server: Server) -> Iterator[ModelServerConfig]:
    """A copy to change; what was in force at first is in force again afterwards."""
    yield server.configuration()
    server.reload(server.configuration())
    for name, version in (("scaler", 1), ("scaler", 2)):
        server.wait_for(name, version)


def scaler_of(config: ModelServerConfig) -> ModelConfig:
    (model,) = (model for model in config.model_config_list.config if model.name == "scaler")
    return model


def refused(server: Server, config: ModelServerConfig) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        server.reload(config)
    return caught.value


def test_new_model_answers_when_the_reload_returns(
    server: Server, config: ModelServerConfig, request_for: Build, saved: Saved
) -> None:
    publish(saved(7.0), server.models / "added", 1)
    config.model_config_list.config.add(
        name="added", base_path=str(server.models / "added"), model_platform="tensorflow"
    )
    server.reload(config)
    assert server.predict(request_for("added", x=X)).outputs["y"].float_val[:] == [7.0, 14.0]
    # Those that were there still are.
    assert server.predict(request_for(x=X)).outputs["y"].float_val[:] == [3.0, 6.0]


def test_model_left_out_is_unloaded(
    server: Server, config: ModelServerConfig, request_for: Build, saved: Saved
) -> None:
    publish(saved(7.0), server.models / "leaving", 1)
    config.model_config_list.config.add(
        name="leaving", base_path=str(server.models / "leaving"), model_platform="tensorflow"
    )
    server.reload(config)
    server.reload(server.configuration())
    server.wait_for("leaving", 1, ModelVersionStatus.END)
    assert server.refusal(request_for("leaving", x=X)).code() == grpc.StatusCode.NOT_FOUND


def test_policy_changes(server: Server, config: ModelServerConfig, request_for: Build) -> None:
    scaler_of(config).model_version_policy.specific.versions.append(1)
    server.reload(config)
    server.wait_for("scaler", 2, ModelVersionStatus.END)
    assert server.predict(request_for(x=X)).model_spec.version.value == 1


def test_version_answers_by_its_label(server: Server, config: ModelServerConfig, request_for: Build) -> None:
    scaler_of(config).version_labels.update({"stable": 1, "canary": 2})
    server.reload(config)
    for label, version in (("stable", 1), ("canary", 2)):
        assert server.predict(request_for(label=label, x=X)).model_spec.version.value == version


def test_label_moves_and_the_version_that_lost_it_can_go(
    server: Server, config: ModelServerConfig, request_for: Build
) -> None:
    scaler_of(config).version_labels["stable"] = 1
    server.reload(config)
    scaler_of(config).version_labels["stable"] = 2
    server.reload(config)
    scaler_of(config).model_version_policy.specific.versions.append(2)
    server.reload(config)
    server.wait_for("scaler", 1, ModelVersionStatus.END)
    assert server.predict(request_for(label="stable", x=X)).model_spec.version.value == 2


def test_label_of_the_last_configuration_is_forgotten(
    server: Server, config: ModelServerConfig, request_for: Build
) -> None:
    scaler_of(config).version_labels["stable"] = 1
    server.reload(config)
    server.reload(server.configuration())
    error = server.refusal(request_for(label="stable", x=X))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "Unrecognized servable version label: stable" in error.details()


def test_label_for_a_version_that_is_not_loaded_is_a_failed_precondition(
    server: Server, config: ModelServerConfig, request_for: Build
) -> None:
    scaler_of(config).version_labels["stable"] = 1
    server.reload(config)
    scaler_of(config).version_labels["stable"] = 77
    error = refused(server, config)
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert "assign label to version 77 of model scaler" in error.details()
    # The labels of before are in force.
    assert server.predict(request_for(label="stable", x=X)).model_spec.version.value == 1


def test_configuration_without_a_list_is_refused(server: Server, request_for: Build) -> None:
    error = refused(server, ModelServerConfig())
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "Only ModelConfigList is currently supported" in error.details()
    assert server.predict(request_for(x=X)).model_spec.version.value == 2


def test_model_listed_twice_is_refused_and_changes_nothing(
    server: Server, config: ModelServerConfig, request_for: Build
) -> None:
    scaler_of(config).model_version_policy.specific.versions.append(1)
    config.model_config_list.config.add().CopyFrom(scaler_of(server.configuration()))
    error = refused(server, config)
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "scaler multiple times" in error.details()
    assert server.states("scaler") == {1: ModelVersionStatus.AVAILABLE, 2: ModelVersionStatus.AVAILABLE}
    assert server.predict(request_for(x=X)).model_spec.version.value == 2


def test_relative_base_path_is_refused(server: Server, config: ModelServerConfig) -> None:
    scaler_of(config).base_path = "models/scaler"
    error = refused(server, config)
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "absolute path" in error.details()


def test_status_of_a_label_is_that_of_its_version(server: Server, config: ModelServerConfig) -> None:
    scaler_of(config).version_labels["stable"] = 1
    server.reload(config)
    request = GetModelStatusRequest()
    request.model_spec.name = "scaler"
    request.model_spec.version_label = "stable"
    entries = server.status.GetModelStatus(request, timeout=20).model_version_status
    # A server may also answer with all versions.
    assert 1 in [entry.version for entry in entries]
