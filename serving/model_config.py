"""Which models are served from where: TensorFlow Serving's `models.config` (ModelServerConfig, text proto)."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tensorflow_serving.config.model_server_config_pb2 import ModelConfig as ModelConfigProto
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from serving.errors import ServingError
from serving.text_proto import read_text_proto

SAVED_MODEL = "saved_model.pb"
_VERSION = re.compile(r"\d{1,18}")
_EXAMPLE = (
    'model_config_list { config { name: "recommender" base_path: "/models/recommender" model_platform: "tensorflow" } }'
)


@dataclass(frozen=True)
class LatestVersions:
    """Policy `latest`: the highest version numbers."""

    count: int = 1

    def choose(self, present: Collection[int]) -> set[int]:
        """The versions to serve, of those present."""
        return set(sorted(present)[-self.count :])


@dataclass(frozen=True)
class AllVersions:
    """Policy `all`: whatever is there."""

    def choose(self, present: Collection[int]) -> set[int]:
        """The versions to serve, of those present."""
        return set(present)


@dataclass(frozen=True)
class SpecificVersions:
    """Policy `specific`: the versions named, as far as they are there."""

    versions: frozenset[int]

    def choose(self, present: Collection[int]) -> set[int]:
        """The versions to serve, of those present."""
        return set(present) & self.versions


@dataclass(frozen=True)
class ModelConfig:
    """One model: `base_path/<integer>/` are its versions, `policy` says which of them are served."""

    name: str
    base_path: Path
    policy: LatestVersions | AllVersions | SpecificVersions = LatestVersions()
    # Version numbers by label: names that stay while what they stand for moves.
    labels: Mapping[str, int] = field(default_factory=dict)


def read_model_server_config(path: Path) -> ModelServerConfig:
    """Reads a `models.config`.

    Raises:
        ServingError: the file is missing, or isn't a ModelServerConfig in text form.
    """
    return read_text_proto(path, ModelServerConfig(), _EXAMPLE)


def model_configs_for(export_dir: Path) -> ModelServerConfig:
    """Every sub-folder of `export_dir` that holds a version, as a model of that name; the newest version is served.

    Raises:
        ServingError: there is no such folder, or no model in it.
    """
    if not export_dir.is_dir():
        raise ServingError(f"{export_dir}: no such folder; export a model first, as {export_dir}/<model>/<version>/.")
    names = sorted(folder.name for folder in export_dir.iterdir() if folder.is_dir() and version_directories(folder))
    if not names:
        raise ServingError(
            f"{export_dir}: no model in it; expected <model>/<version>/{SAVED_MODEL} with an integer as the version."
        )
    config = ModelServerConfig()
    for name in names:
        config.model_config_list.config.add(
            name=name, base_path=str(export_dir.resolve() / name), model_platform="tensorflow"
        )
    return config


def parse_models(config: ModelServerConfig) -> list[ModelConfig]:
    """The models of a configuration, checked by TensorFlow Serving's rules.

    Raises:
        ServingError: names the model, the field, the rule and the value received.
    """
    if config.WhichOneof("config") != "model_config_list" or not config.model_config_list.config:
        raise ServingError(f"The model configuration lists no model; expected for example: {_EXAMPLE}")
    models = [_parse_model(model) for model in config.model_config_list.config]
    names = [model.name for model in models]
    for name in names:
        if names.count(name) > 1:
            raise ServingError(f"Illegal to list model {name} multiple times in config list; give each its own name.")
    return models


def check_model_dir(path: Path) -> None:
    """Says in a sentence why the newest version under a model's base path can't be served, if it can't.

    Raises:
        ServingError: no folder, no integer sub-folder, or no SavedModel in the newest.
    """
    if not path.is_dir():
        raise ServingError(f"{path}: no such folder; expected a model's base path with <version>/{SAVED_MODEL} in it.")
    versions = version_directories(path)
    if not versions:
        raise ServingError(
            f"{path}: no version in it; expected a sub-folder named with an integer that holds {SAVED_MODEL}, "
            f"such as {path / '1' / SAVED_MODEL}."
        )
    check_version_dir(versions[max(versions)])


def check_version_dir(path: Path) -> None:
    """Says in a sentence that a version's folder holds no SavedModel, if it doesn't.

    Raises:
        ServingError: no `saved_model.pb` in the folder.
    """
    if not (path / SAVED_MODEL).is_file():
        raise ServingError(
            f"{path}: Could not find SavedModel .pb at supplied export directory path; a version's folder must hold "
            f"{SAVED_MODEL} and variables/. Write a version under another name and rename it when it is whole."
        )


def version_directories(base_path: Path) -> Mapping[int, Path]:
    """The versions on disk: sub-folders named with an integer. Anything else is ignored.

    Raises:
        OSError: the base path can't be listed.
    """
    return {
        int(entry.name): entry
        for entry in sorted(base_path.iterdir())
        if _VERSION.fullmatch(entry.name) and entry.is_dir()
    }


def _parse_model(model: ModelConfigProto) -> ModelConfig:
    if not model.name:
        raise ServingError(f"A model without a name (base_path {model.base_path!r}); set name in its config.")
    if model.model_platform != "tensorflow":
        raise ServingError(
            f'Model {model.name}: model_platform must be "tensorflow", received "{model.model_platform}".'
        )
    if not Path(model.base_path).is_absolute():
        raise ServingError(
            f"Expected model {model.name} to have an absolute path; got base_path {model.base_path!r}. "
            f"Write {str(Path(model.base_path).resolve())!r} if that is the folder meant."
        )
    return ModelConfig(model.name, Path(model.base_path), _parse_policy(model), dict(model.version_labels))


def _parse_policy(model: ModelConfigProto) -> LatestVersions | AllVersions | SpecificVersions:
    policy = model.model_version_policy
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return AllVersions()
    if choice == "specific":
        if not policy.specific.versions:
            raise ServingError(f"Model {model.name}: model_version_policy specific names no versions; add versions: N.")
        return SpecificVersions(frozenset(policy.specific.versions))
    return LatestVersions(max(policy.latest.num_versions, 1))
