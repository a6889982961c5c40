"""`tandem serve`: a run's published models, or those of a models.config, on one of two engines."""

import logging
import sys
from dataclasses import replace
from pathlib import Path

from pipeline.serving_engine import EngineError, ModelServerProcess, find_binary, stop_signals, take_port
from pipeline.serving_engine_flags import Listening, command_line
from pipeline.serving_files import ServingFiles, serving_files, write_models_config
from pipeline.serving_flags import TENSORFLOW_SERVING, ServeFlags
from pipeline.serving_readiness import custom_ops, open_channel, wait_until_answering
from serving.model_config import parse_models
from serving.options import ServerOptions
from serving.server import ModelServer

log = logging.getLogger(__name__)

_LOAD_SECONDS = 600.0
_POLL_SECONDS = 0.2
_LOOPBACK, _ALL_INTERFACES = "127.0.0.1", "0.0.0.0"


def serve(flags: ServeFlags) -> None:
    """Serves until SIGINT or SIGTERM. Once every model answers, prints where; the last word is the gRPC address.

    Raises:
        StepError: flags that contradict each other.
        ServingError: no model, a broken configuration, or a port that cannot be had.
        EngineError: TensorFlow Serving is not there, cannot be told what the flags ask, or has ended.
    """
    if flags.engine == TENSORFLOW_SERVING:
        _serve_tensorflow_serving(flags)
    else:
        _serve_embedded(flags)


def _serve_embedded(flags: ServeFlags) -> None:
    files = serving_files(flags)
    if flags.grpc_socket_path is not None:
        raise EngineError("--grpc-socket-path is TensorFlow Serving's; the embedded engine takes --host and --port.")
    options = _options(flags, files)
    with ModelServer(files.models, port=flags.port, host=flags.host or _LOOPBACK, options=options) as server:
        server.wait_until_available(_LOAD_SECONDS)
        rest = f"{server.host}:{server.rest.port}" if server.rest is not None else ""
        _announce(files, rest, server.address)
        server.run_until_signal()


def _options(flags: ServeFlags, files: ServingFiles) -> ServerOptions:
    """The embedded server's options: its own defaults but for what was asked."""
    names = (
        "grpc_max_threads",
        "max_num_load_retries",
        "load_retry_interval_micros",
        "file_system_poll_wait_seconds",
        "tensorflow_intra_op_parallelism",
        "tensorflow_inter_op_parallelism",
    )
    asked = {name: getattr(flags, name) for name in names if getattr(flags, name) is not None}
    options = ServerOptions(
        model_config_file=files.models_file,
        model_config_file_poll_wait_seconds=flags.model_config_file_poll_wait_seconds,
        allow_version_labels_for_unavailable_models=flags.allow_version_labels_for_unavailable_models,
        rest_api_port=flags.rest_api_port,
        batching=files.batching,
        monitoring=files.monitoring,
        ssl_config=files.ssl,
    )
    return replace(options, **asked)


def _serve_tensorflow_serving(flags: ServeFlags) -> None:
    binary = find_binary(flags.tensorflow_model_server)
    files = serving_files(flags)
    models = parse_models(files.models)
    for model, ops in custom_ops(models):
        log.warning("model %s needs the ops of %s: stock builds of TensorFlow Serving lack them", model, ", ".join(ops))
    listening = _listening(flags)
    models_file = files.models_file or write_models_config(files.models, _run_folder(flags))
    command = command_line(binary, flags, files, models_file, listening)
    log.info("%s", " ".join(command))
    with stop_signals() as stopping, ModelServerProcess(command) as server:
        with open_channel(listening.target, files.ssl) as channel:
            ready = wait_until_answering(channel, models, server.check_alive, stopping, _LOAD_SECONDS)
        if ready:
            rest = f"{_LOOPBACK}:{listening.rest_api_port}" if listening.rest_api_port else ""
            _announce(files, rest, listening.target)
        while not stopping.wait(_POLL_SECONDS):
            server.check_alive()


def _run_folder(flags: ServeFlags) -> Path:
    assert flags.run is not None
    return flags.run / "serving"


def _listening(flags: ServeFlags) -> Listening:
    """Ports that are free, said aloud where they are open to the network.

    Raises:
        EngineError: an address that TensorFlow Serving cannot be bound to, or a port that is taken.
    """
    if flags.host not in (None, _ALL_INTERFACES):
        raise EngineError(
            f"--host {flags.host}: TensorFlow Serving has no flag for an address and listens on all interfaces. "
            f"Take --host {_ALL_INTERFACES}, --grpc-socket-path PATH (a Unix socket, no port), or --engine embedded."
        )
    rest = take_port(flags.rest_api_port) if flags.rest_api_port else 0
    if flags.grpc_socket_path is not None:
        listening = Listening(0, flags.grpc_socket_path.absolute(), rest)
    else:
        listening = Listening(take_port(flags.port), None, rest)
    ports = [str(port) for port in (listening.port, listening.rest_api_port) if port]
    if flags.host is None and ports:
        print(
            f"TensorFlow Serving listens on all interfaces, not on loopback alone: port {' and '.join(ports)}. "
            f"(--host {_ALL_INTERFACES} says that this is meant; --grpc-socket-path PATH opens no gRPC port.)",
            file=sys.stderr,
        )
    return listening


def _announce(files: ServingFiles, rest: str, grpc: str) -> None:
    names = ", ".join(model.name for model in files.models.model_config_list.config)
    rest_too = f"REST on http://{rest}, " if rest else ""
    print(f"Serving {names}: {rest_too}gRPC on {grpc}", flush=True)
