"""The configuration files a server gets: given by flags, else those of serving_config/; each is parsed first."""

from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from pipeline.runner import StepError
from pipeline.serving_flags import ServeFlags
from protos.server_config_pb2 import BatchingParameters, MonitoringConfig, SSLConfig
from serving.model_config import check_model_dir, model_configs_for, read_model_server_config
from serving.options import read_batching_parameters, read_monitoring_config, read_ssl_config

SHIPPED = Path(__file__).parents[1] / "serving_config"


@dataclass(frozen=True)
class ServingFiles:
    """Paths, absolute, and what the files say; None where a server goes without."""

    models: ModelServerConfig
    # None: the models are those of a run, which has no such file.
    models_file: Path | None
    batching: BatchingParameters | None
    batching_file: Path | None
    monitoring: MonitoringConfig | None
    monitoring_file: Path | None
    ssl: SSLConfig | None
    ssl_file: Path | None


def serving_files(flags: ServeFlags) -> ServingFiles:
    """Reads what the flags name.

    Raises:
        StepError: flags that contradict each other.
        ServingError: a file is missing or breaks a rule, or there is no model to serve.
    """
    models = _models(flags)
    if flags.batching_parameters_file is not None and not flags.enable_batching:
        raise StepError(
            f"--batching-parameters-file {flags.batching_parameters_file} says how requests are joined, "
            "--no-enable-batching that they are not; leave out one of them."
        )
    batching_file = (flags.batching_parameters_file or SHIPPED / "batching.config") if flags.enable_batching else None
    if flags.monitoring_config_file is not None and not flags.rest_api_port:
        raise StepError(
            f"--monitoring-config-file {flags.monitoring_config_file}: metrics are served on the REST port; "
            f"add --rest-port PORT."
        )
    monitoring_file = (flags.monitoring_config_file or SHIPPED / "monitoring.config") if flags.rest_api_port else None
    return ServingFiles(
        models=models,
        models_file=_absolute(flags.model_config_file),
        batching=read_batching_parameters(batching_file) if batching_file else None,
        batching_file=_absolute(batching_file),
        monitoring=read_monitoring_config(monitoring_file) if monitoring_file else None,
        monitoring_file=_absolute(monitoring_file),
        ssl=read_ssl_config(flags.ssl_config_file) if flags.ssl_config_file else None,
        ssl_file=_absolute(flags.ssl_config_file),
    )


def write_models_config(models: ModelServerConfig, folder: Path) -> Path:
    """Writes `folder/models.config`, whole or not at all, for a server that reads files; returns its absolute path."""
    folder.mkdir(exist_ok=True)
    path = (folder / "models.config").absolute()
    partial = path.with_suffix(".partial")
    partial.write_text(text_format.MessageToString(models), encoding="utf-8")
    partial.replace(path)
    return path


def _models(flags: ServeFlags) -> ModelServerConfig:
    if (flags.run is None) == (flags.model_config_file is None):
        raise StepError("tandem serve takes either RUN or --model-config-file.")
    if flags.model_config_file is not None:
        return read_model_server_config(flags.model_config_file)
    assert flags.run is not None
    if flags.model_config_file_poll_wait_seconds:
        raise StepError(
            "--model-config-file-poll-wait-seconds: a run has no models.config that could change; "
            "give --model-config-file instead of RUN."
        )
    models = model_configs_for(flags.run / "export")
    # Here the newest version is the one to serve; a models.config may name others.
    for model in models.model_config_list.config:
        check_model_dir(Path(model.base_path))
    return models


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.absolute()
