"""What a server is told beside its models: TensorFlow Serving's flags and files, under their names."""

import os
from dataclasses import dataclass
from pathlib import Path

from protos.server_config_pb2 import BatchingParameters, MonitoringConfig, SSLConfig
from serving.text_proto import read_text_proto

CORES = len(os.sched_getaffinity(0))
_BATCHING_EXAMPLE = "max_batch_size { value: 32 } batch_timeout_micros { value: 0 } num_batch_threads { value: 2 }"
_MONITORING_EXAMPLE = 'prometheus_config { enable: true path: "/monitoring/prometheus/metrics" }'
_SSL_EXAMPLE = (
    'server_key: "-----BEGIN PRIVATE KEY-----\\n…" server_cert: "-----BEGIN CERTIFICATE-----\\n…" client_verify: false'
)


@dataclass(frozen=True)
class ServerOptions:
    """How much the server takes on; every size is bounded. A field is TensorFlow Serving's flag of that name."""

    # The models.config that is followed, and the seconds between two looks at it (0 = it is read once, by the caller).
    model_config_file: Path | None = None
    model_config_file_poll_wait_seconds: float = 0.0
    # Lets a configuration name versions that aren't loaded yet; a label that is in use still can't move to one.
    allow_version_labels_for_unavailable_models: bool = False
    # Seconds between two looks at the base paths; 0 looks once, below 0 never unless the configuration changes.
    file_system_poll_wait_seconds: float = 1.0
    # Attempts after the first before a version that fails to load is given up, and the microseconds between them.
    max_num_load_retries: int = 5
    load_retry_interval_micros: int = 60_000_000
    # Requests worked on at once; one more gets RESOURCE_EXHAUSTED.
    grpc_max_threads: int = 4 * CORES
    # Bytes of one request or response; a larger one gets RESOURCE_EXHAUSTED.
    max_message_bytes: int = 64 << 20
    # TLS on the gRPC port.
    ssl_config: SSLConfig | None = None
    # None or 0: no REST.
    rest_api_port: int | None = None
    rest_api_num_threads: int = 4 * CORES
    rest_api_timeout_in_ms: int = 30_000
    # Metrics on the REST port.
    monitoring: MonitoringConfig | None = None
    # Joins requests; None = each runs alone.
    batching: BatchingParameters | None = None
    # TensorFlow's threads: within one operation, and for operations beside each other (0 = one a core). A recommender
    # is many small operations: splitting one over threads costs more than it saves, while requests keep the cores busy
    # (measured on TensorFlow Serving, two cores: 300 requests/s with its own defaults, 750 with 1 and 2).
    tensorflow_intra_op_parallelism: int = 1
    tensorflow_inter_op_parallelism: int = 0


def read_batching_parameters(path: Path) -> BatchingParameters:
    """Reads a `--batching_parameters_file`.

    Raises:
        ServingError: the file is missing, or isn't a BatchingParameters in text form.
    """
    return read_text_proto(path, BatchingParameters(), _BATCHING_EXAMPLE)


def read_monitoring_config(path: Path) -> MonitoringConfig:
    """Reads a `--monitoring_config_file`.

    Raises:
        ServingError: the file is missing, or isn't a MonitoringConfig in text form.
    """
    return read_text_proto(path, MonitoringConfig(), _MONITORING_EXAMPLE)


def read_ssl_config(path: Path) -> SSLConfig:
    """Reads a `--ssl_config_file`.

    Raises:
        ServingError: the file is missing, or isn't an SSLConfig in text form.
    """
    return read_text_proto(path, SSLConfig(), _SSL_EXAMPLE)
