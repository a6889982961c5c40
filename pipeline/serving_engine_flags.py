"""The command line of `tensorflow_model_server`: our flags in TensorFlow Serving's words."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.serving_files import ServingFiles
from pipeline.serving_flags import ServeFlags
from serving.options import CORES

# A version that does not load is given up at once: at the start the server then ends and says why, instead of trying
# for five minutes; later the version before it goes on serving.
_MAX_NUM_LOAD_RETRIES = 0
# One thread an operation and one operation a core: a recommender is many small operations (300 requests/s on two
# cores with TensorFlow Serving's own defaults, 750 with these).
_INTRA_OP_PARALLELISM = 1


@dataclass(frozen=True)
class Listening:
    """Where the server listens: on a Unix socket or a port, and for REST on a port (0 = not)."""

    port: int
    grpc_socket_path: Path | None
    rest_api_port: int

    @property
    def target(self) -> str:
        """Address of the gRPC services for a client on this machine."""
        return f"unix:{self.grpc_socket_path}" if self.grpc_socket_path is not None else f"127.0.0.1:{self.port}"


def command_line(
    binary: Path, flags: ServeFlags, files: ServingFiles, models_file: Path, listening: Listening
) -> list[str]:
    """The binary and its flags, those left at TensorFlow Serving's own defaults left out."""
    chosen: dict[str, object | None] = {
        "port": listening.port,
        "grpc_socket_path": listening.grpc_socket_path,
        "rest_api_port": listening.rest_api_port,
        "model_config_file": models_file,
        "model_config_file_poll_wait_seconds": flags.model_config_file_poll_wait_seconds or None,
        "enable_batching": "true" if files.batching_file else None,
        "batching_parameters_file": files.batching_file,
        "monitoring_config_file": files.monitoring_file,
        "ssl_config_file": files.ssl_file,
        "grpc_max_threads": flags.grpc_max_threads,
        # Two servers on one port would share its requests at random.
        "grpc_channel_arguments": "grpc.so_reuseport=0",
        "max_num_load_retries": _first(flags.max_num_load_retries, _MAX_NUM_LOAD_RETRIES),
        "load_retry_interval_micros": flags.load_retry_interval_micros,
        "file_system_poll_wait_seconds": flags.file_system_poll_wait_seconds,
        "tensorflow_intra_op_parallelism": _first(flags.tensorflow_intra_op_parallelism, _INTRA_OP_PARALLELISM),
        "tensorflow_inter_op_parallelism": _first(flags.tensorflow_inter_op_parallelism, CORES),
        "allow_version_labels_for_unavailable_models": "true"
        if flags.allow_version_labels_for_unavailable_models
        else None,
    }
    return [str(binary), *(f"--{name}={value}" for name, value in chosen.items() if value is not None)]


def _first(given: int | None, default: int) -> int:
    return default if given is None else given
