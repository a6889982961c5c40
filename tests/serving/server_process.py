"""A model server as a process of its own: `python -m tests.serving.server_process EXPORT`, ends with its input."""

import sys
from pathlib import Path

from serving.model_config import model_configs_for
from serving.options import ServerOptions
from serving.server import ModelServer


def main() -> None:
    """Serves the models of EXPORT on free ports and prints them: gRPC, REST."""
    options = ServerOptions(rest_api_port=int(sys.argv[2]), grpc_max_threads=64)
    with ModelServer(model_configs_for(Path(sys.argv[1])), port=0, options=options) as server:
        server.wait_until_available(60)
        print("READY", server.port, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
