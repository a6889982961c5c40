"""A `tensorflow_model_server` for tests: takes TensorFlow Serving's flags, and lets the embedded server do the work.

Started by a script of that name. It differs from TensorFlow Serving 2.16 as little as tests can tell: it knows the same
flags and no others, ends at the start where a model does not load, dies at SIGTERM, and speaks on standard error.

STAND_IN_RECORD: file that gets its process id and its flags. STAND_IN_COPY: folder for copies of the models without
their warm-up requests, which makes a model that cannot answer AVAILABLE, as a missing op does in TensorFlow Serving.
"""

import argparse
import json
import os
import shutil
import signal
import sys
from pathlib import Path

from serving.errors import ServingError
from serving.model_config import read_model_server_config
from serving.options import ServerOptions, read_batching_parameters, read_monitoring_config
from serving.server import ModelServer


def main() -> int:
    """Serves until it is killed; returns what the real one does when a model cannot be loaded."""
    record = Path(os.environ["STAND_IN_RECORD"])
    partial = record.with_suffix(".partial")
    partial.write_text(json.dumps({"pid": os.getpid(), "flags": sys.argv[1:]}))
    partial.rename(record)
    flags = _parser().parse_args()
    models = read_model_server_config(flags.model_config_file)
    copies = os.environ.get("STAND_IN_COPY")
    for model in models.model_config_list.config if copies else ():
        without = Path(str(copies)) / model.name
        shutil.copytree(model.base_path, without, ignore=shutil.ignore_patterns("assets.extra"))
        model.base_path = str(without)
    options = ServerOptions(
        grpc_max_threads=flags.grpc_max_threads,
        max_num_load_retries=flags.max_num_load_retries,
        batching=read_batching_parameters(flags.batching_parameters_file) if flags.enable_batching else None,
        monitoring=read_monitoring_config(flags.monitoring_config_file) if flags.monitoring_config_file else None,
        tensorflow_intra_op_parallelism=flags.tensorflow_intra_op_parallelism,
        tensorflow_inter_op_parallelism=flags.tensorflow_inter_op_parallelism,
    )
    with ModelServer(models, flags.port, "0.0.0.0", options) as server:
        try:
            server.wait_until_available(60)
        except ServingError as error:
            print(
                f"Failed to start server. Error: Unknown: 1 servable(s) did not become available: {error}", flush=True
            )
            os._exit(255)
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
    sys.exit(main())
