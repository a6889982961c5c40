"""`tandem serve`: the embedded model server over a run's published models, or over a models.config."""

from pathlib import Path

from pipeline.runner import StepError
from serving.model_config import check_model_dir, model_configs_for, read_model_server_config
from serving.server import ModelServer

_LOAD_SECONDS = 600.0


def serve(run: Path | None, config_file: Path | None, host: str, port: int) -> None:
    """Serves until SIGINT or SIGTERM, then answers what it has accepted and stops. Prints the address when ready.

    Raises:
        StepError: neither a run nor a configuration file is given, or both.
        ServingError: no model, a broken configuration, or a port that cannot be had.
    """
    if run is not None and config_file is None:
        models = model_configs_for(run / "export")
        # Here the newest version is the one to serve; a models.config may name others.
        for model in models.model_config_list.config:
            check_model_dir(Path(model.base_path))
    elif config_file is not None and run is None:
        models = read_model_server_config(config_file)
    else:
        raise StepError("tandem serve takes either RUN or --model-config-file.")
    with ModelServer(models, port=port, host=host) as server:
        server.wait_until_available(_LOAD_SECONDS)
        names = ", ".join(model.name for model in models.model_config_list.config)
        print(f"Serving {names} on {server.address}", flush=True)
        server.run_until_signal()
