"""A `tensorflow_model_server` for tests: takes TensorFlow Serving's flags, and lets the embedded server do the work.

Started by a script of that name. It knows the flags that we give and no others, dies at SIGTERM, and speaks on standard
error, as TensorFlow Serving does.

STAND_IN_RECORD: file that gets its process id and its flags.
"""

import argparse
import json
import os
import signal
import sys
from pathlib import Path

from serving.model_config import read_model_server_config
from serving.options import ServerOptions, read_batching_parameters, read_monitoring_config
from serving.server import ModelServer


def main() -> None:
    """Serves until it is killed."""
    record = Path(os.environ["STAND_IN_RECORD"])
    partial = record.with_suffix(".partial")
    partial.write_text(json.dumps({"pid": os.getpid(), "flags": sys.argv[1:]}))
    partial.rename(record)
    flags = _parser().parse_args()
    models = read_model_server_config(flags.model_config_file)
    options = ServerOptions(
        grpc_max_threads=flags.grpc_max_threads,
        max_num_load_retries=flags.max_num_load_retries,
        batching=read_batching_parameters(flags.batching_parameters_file) if flags.enable_batching else None,
        rest_api_port=flags.rest_api_port,
        monitoring=read_monitoring_config(flags.monitoring_config_file) if flags.monitoring_config_file else None,
        tensorflow_intra_op_parallelism=flags.tensorflow_intra_op_parallelism,
        tensorflow_inter_op_parallelism=flags.tensorflow_inter_op_parallelism,
    )
    with ModelServer(models, flags.port, "0.0.0.0", options) as server:
        server.wait_until_available(60)
        print(f"Running gRPC ModelServer at 0.0.0.0:{flags.port} ...", file=sys.stderr, flush=True)
        while True:
            signal.pause()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in (
        "port",
        "rest_api_port",
        "model_config_file_poll_wait_seconds",
        "grpc_max_threads",
        "max_num_load_retries",
        "tensorflow_intra_op_parallelism",
        "tensorflow_inter_op_parallelism",
    ):
        parser.add_argument(f"--{name}", type=int, default=0)
    for name in ("model_config_file", "batching_parameters_file", "monitoring_config_file"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--enable_batching", type=lambda text: text == "true", default=False)
    parser.add_argument("--grpc_channel_arguments")
    return parser


if __name__ == "__main__":
    main()
