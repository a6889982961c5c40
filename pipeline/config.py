"""One typed configuration for a run: read from YAML, changed by `--set key=value`, refused where a key is unknown."""

import dataclasses
import difflib
from collections.abc import Iterator, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from trainer.config import (
    ContentConfig,
    EvaluationConfig,
    ExportConfig,
    HeadConfig,
    RankerConfig,
    RetrievalConfig,
    TransferConfig,
)
from transform.config import STRICT, TransformConfig, ValidateConfig

SHIPPED = Path(__file__).parent / "configs"


class ConfigError(ValueError):
    """A configuration that cannot be used: names the file or flag, the key, the rule and the value received."""


@dataclass(frozen=True, config=STRICT)
class Config:
    """Everything that can be set for a run; each section belongs to the step that reads it."""

    # Shown in the report.
    name: str = "shop"
    # Directory of an earlier run from whose weights both trainings start (daily retraining); empty = from scratch.
    warm_start: str = ""
    # A run of another shop, and what of it both trainings start from; not together with `warm_start`.
    transfer: TransferConfig = field(default_factory=TransferConfig)
    transform: TransformConfig = field(default_factory=TransformConfig)
    validate: ValidateConfig = field(default_factory=ValidateConfig)
    content: ContentConfig = field(default_factory=ContentConfig)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    ranker: RankerConfig = field(default_factory=RankerConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    export: ExportConfig = field(default_factory=ExportConfig)


def load_config(source: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Configuration from a YAML file or the name of a shipped one, with `key=value` overrides applied in order.

    Args:
        source: path of a YAML file, or a name under pipeline/configs ("demo"); None = the shipped defaults.
        overrides: "ranker.training.epochs=3"; the value is read as YAML.

    Raises:
        ConfigError: the file is missing or not YAML, a key is unknown, or a value breaks its rule.
    """
    origin, values = ("the defaults", {}) if source is None else _read(source)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ConfigError(f"--set needs key=value, received {override!r}.")
        _assign(values, key.strip(), _yaml(text, f"--set {override}"))
        origin = f"{origin} with --set"
    try:
        config = TypeAdapter(Config).validate_python(values)
    except ValidationError as error:
        raise ConfigError("\n".join(_sentence(origin, problem) for problem in error.errors())) from None
    _check_starts(config, origin)
    return config


def _check_starts(config: Config, origin: str) -> None:
    """Trainings start from one thing, and a transfer takes something."""
    start = config.transfer
    if config.warm_start and start.run:
        raise ConfigError(
            f"{origin}: warm_start goes on with an earlier run of this shop, transfer.run takes parts of another one; "
            f"received both, {config.warm_start!r} and {start.run!r}. Leave one of them out."
        )
    if start.run and not (start.text or start.picture or start.attributes or start.network):
        raise ConfigError(
            f"{origin}: transfer.run names {start.run!r}, but nothing is to be taken from it. Set one of "
            "transfer.text, .picture, .attributes, .network to true, or leave transfer.run out."
        )


def as_dict(config: Any) -> Any:
    """Plain values of a configuration, of one of its sections or of a single key, for JSON."""
    return TypeAdapter(Any).dump_python(config, mode="json")


def _read(source: str | Path) -> tuple[str, dict[str, Any]]:
    path = Path(source)
    if not path.is_file():
        shipped = SHIPPED / f"{source}.yaml"
        if not shipped.is_file():
            names = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.yaml")))
            raise ConfigError(f"configuration {str(source)!r} is neither a file nor one of the shipped ones: {names}.")
        path = shipped
    values = _yaml(path.read_text(encoding="utf-8"), str(path))
    if values is None:
        return str(path), {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected keys and values at the top level, received {type(values).__name__}.")
    return str(path), values


def _yaml(text: str, origin: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin}: not valid YAML: {' '.join(str(error).split())}") from None


def _assign(values: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(f"--set {key}: {parent!r} is a value, not a section.")
    values[last] = value


def _sentence(origin: str, problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "unexpected_keyword_argument":
        near = max(_keys(Config), key=lambda known: _likeness(known, key))
        return f"{origin}: unknown key {key!r}; the nearest known key is {near!r}."
    return f"{origin}: {key}: {problem['msg']}, received {problem['input']!r}."


def _likeness(known: str, key: str) -> float:
    # The last word counts as much as the whole: a key is more often in the wrong section than misspelt.
    def ratio(one: str, other: str) -> float:
        return difflib.SequenceMatcher(None, one, other).ratio()

    return ratio(known, key) + ratio(known.split(".")[-1], key.split(".")[-1])


def _keys(section: Any, prefix: str = "") -> Iterator[str]:
    for entry in dataclasses.fields(section):
        yield prefix + entry.name
        if dataclasses.is_dataclass(entry.type):
            yield from _keys(entry.type, f"{prefix}{entry.name}.")
