"""The flags of `tandem serve`: TensorFlow Serving's own, with dashes, and which engine they are for."""

import argparse
from dataclasses import dataclass
from pathlib import Path

EMBEDDED, TENSORFLOW_SERVING = "embedded", "tensorflow-serving"


@dataclass(frozen=True)
class ServeFlags:
    """What was asked for; None leaves it to the engine. A field is TensorFlow Serving's flag of that name."""

    run: Path | None = None
    engine: str = EMBEDDED
    tensorflow_model_server: Path | None = None
    host: str | None = None
    port: int = 8500
    grpc_socket_path: Path | None = None
    rest_api_port: int = 0
    model_config_file: Path | None = None
    model_config_file_poll_wait_seconds: int = 0
    enable_batching: bool = True
    batching_parameters_file: Path | None = None
    monitoring_config_file: Path | None = None
    ssl_config_file: Path | None = None
    # TensorFlow Serving's own default is 4 a core: 8 clients on two cores were refused with RESOURCE_EXHAUSTED, with 64
    # none was.
    grpc_max_threads: int = 64
    max_num_load_retries: int | None = None
    load_retry_interval_micros: int | None = None
    file_system_poll_wait_seconds: int | None = None
    tensorflow_intra_op_parallelism: int | None = None
    tensorflow_inter_op_parallelism: int | None = None
    allow_version_labels_for_unavailable_models: bool = False


def add_serve_flags(parser: argparse.ArgumentParser) -> None:
    """Gives a parser the arguments that make up ServeFlags."""
    parser.add_argument("run", type=Path, metavar="RUN", nargs="?", help="run folder whose export/ is served")
    parser.add_argument("--engine", choices=(EMBEDDED, TENSORFLOW_SERVING), default=EMBEDDED)
    parser.add_argument(
        "--tensorflow-model-server", type=Path, metavar="PATH", help="TensorFlow Serving's binary, if not on PATH"
    )
    parser.add_argument(
        "--host",
        help="address to listen on, 127.0.0.1 unless told otherwise; TensorFlow Serving knows only 0.0.0.0",
    )
    parser.add_argument("--port", type=int, default=8500, help="gRPC port; 0 = any free one")
    parser.add_argument(
        "--grpc-socket-path",
        type=Path,
        metavar="PATH",
        help="TensorFlow Serving: gRPC on this Unix socket and on no port",
    )
    parser.add_argument(
        "--rest-port", "--rest-api-port", type=int, default=0, dest="rest_api_port", help="REST port; 0 = none"
    )
    _add_file_flags(parser)
    _add_tuning_flags(parser)


def _add_file_flags(parser: argparse.ArgumentParser) -> None:
    def file(name: str, about: str) -> None:
        parser.add_argument(name, type=Path, metavar="FILE", help=about)

    file("--model-config-file", "models.config to serve, instead of RUN")
    parser.add_argument(
        "--model-config-file-poll-wait-seconds",
        type=int,
        default=0,
        metavar="SECONDS",
        help="between two looks at the models.config; 0 = it is read once",
    )
    parser.add_argument(
        "--enable-batching",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="join requests that come at the same time, on unless told otherwise",
    )
    file("--batching-parameters-file", "how they are joined (serving_config/batching.config)")
    file("--monitoring-config-file", "Prometheus on the REST port (serving_config/monitoring.config)")
    file("--ssl-config-file", "TLS on the gRPC port")
    parser.add_argument(
        "--allow-version-labels-for-unavailable-models",
        action="store_true",
        help="labels in the models.config may name versions that are not loaded yet, as none is at the start",
    )


def _add_tuning_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--grpc-max-threads", type=int, default=64, metavar="N", help="requests worked on at once")
    for name, about in (
        ("--max-num-load-retries", "attempts after the first to load a version"),
        ("--load-retry-interval-micros", "microseconds between them"),
        ("--file-system-poll-wait-seconds", "seconds between two looks for new versions"),
        ("--tensorflow-intra-op-parallelism", "threads within an operation"),
        ("--tensorflow-inter-op-parallelism", "operations beside each other"),
    ):
        parser.add_argument(name, type=int, metavar="N", help=about)
