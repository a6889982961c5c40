"""The files in serving_config/ are what TensorFlow Serving reads."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from google.protobuf import text_format
from grpc_tools import protoc

from serving.model_config import LatestVersions, parse_models, read_model_server_config

CONFIG = Path(__file__).parents[2] / "serving_config"

# The fields of tensorflow_serving/servables/tensorflow/session_bundle_config.proto (BatchingParameters) and
# tensorflow_serving/config/monitoring_config.proto, which the published package doesn't hold.
SCHEMA = """
syntax = "proto3";
package tandem.test;
import "google/protobuf/wrappers.proto";
message BatchingParameters {
  google.protobuf.Int64Value max_batch_size = 1;
  google.protobuf.Int64Value batch_timeout_micros = 2;
  google.protobuf.Int64Value max_enqueued_batches = 3;
  google.protobuf.Int64Value num_batch_threads = 4;
  google.protobuf.StringValue thread_pool_name = 5;
  repeated int64 allowed_batch_sizes = 6;
  bool pad_variable_length_inputs = 7;
}
message PrometheusConfig {
  bool enable = 1;
  string path = 2;
}
message MonitoringConfig {
  PrometheusConfig prometheus_config = 1;
}
"""


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    folder = tmp_path_factory.mktemp("schema")
    (folder / "serving_schema.proto").write_text(SCHEMA)
    well_known = Path(protoc.__file__).parent / "_proto"
    arguments = ["protoc", f"-I{folder}", f"-I{well_known}", f"--python_out={folder}", "serving_schema.proto"]
    assert protoc.main(arguments) == 0
    spec = importlib.util.spec_from_file_location("serving_schema_pb2", folder / "serving_schema_pb2.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_models_config_serves_the_newest_of_both_models() -> None:
    models = parse_models(read_model_server_config(CONFIG / "models.config"))
    assert [(model.name, str(model.base_path), model.policy) for model in models] == [
        ("recommender", "/models/recommender", LatestVersions(1)),
        ("item_encoder", "/models/item_encoder", LatestVersions(1)),
    ]


def test_batch_sizes_increase_up_to_the_largest(schema: ModuleType) -> None:
    batching = text_format.Parse((CONFIG / "batching.config").read_text(), schema.BatchingParameters())
    sizes = list(batching.allowed_batch_sizes)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == batching.max_batch_size.value
    assert not batching.pad_variable_length_inputs


def test_prometheus_is_enabled(schema: ModuleType) -> None:
    monitoring = text_format.Parse((CONFIG / "monitoring.config").read_text(), schema.MonitoringConfig())
    assert monitoring.prometheus_config.enable
    assert monitoring.prometheus_config.path == "/monitoring/prometheus/metrics"
