"""Starts a training from a model of another shop, by modality: what its words, pictures or categories mean."""

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tf_keras

from protos.feature_schema_pb2 import Feature, FeatureSchema
from trainer.config import TransferConfig
from trainer.errors import TrainingError
from trainer.item_encoder import ATTRIBUTES
from trainer.sharded_embedding import Table
from trainer.warm_start import Previous, Strings, read_weights, table_strings, weights_by_path
from transform.feature_schema import read_schema
from transform.tables import BEHAVIOUR, FIRST

_LOG = logging.getLogger(__name__)
# Of the item encoder: what makes a modality's vector of what is read of it.
_TOWER = re.compile(r".*item_encoder/(?:hidden|outputs_of)/([^/]+)/.*")
_KINDS = {
    "text": (Feature.TEXT,),
    "picture": (Feature.VECTOR,),
    "attributes": (Feature.NUMERIC, Feature.CATEGORICAL),
}
# Rows that belong to one shop and are learned anew: products by id, and what its shoppers did with them.
_ANEW = "ids"


class Transfer(NamedTuple):
    """An earlier run and what is taken from it."""

    previous: Previous
    modalities: TransferConfig


@dataclass
class Transferred:
    """What was taken over."""

    # Table → rows whose string the earlier run knew, and all of them; the reserved rows aside.
    rows: dict[str, tuple[int, int]] = field(default_factory=dict)
    weights: int = 0  # copied as a whole
    other_shape: list[str] = field(default_factory=list)  # asked for, but start anew: the columns of the shops differ

    def __str__(self) -> str:
        parts = [f"{matched:,} of {count:,} rows of {name}" for name, (matched, count) in self.rows.items()]
        parts.append(f"{self.weights} weights as they were")
        if self.other_shape:
            parts.append(f"{len(self.other_shape)} of another shape start anew ({', '.join(self.other_shape)})")
        return ", ".join(parts)


def transfer(model: tf_keras.Model, schema: FeatureSchema, transform_dir: Path, source: Transfer) -> Transferred:
    """Gives a model the weights of chosen modalities; call it before the training loop runs.

    Rows of words and values are matched by their strings; what the earlier run did not know keeps what it was drawn
    with, as does everything that was not chosen. The tables of n-grams and the layers of a modality are copied whole.
    Ids and behaviour are always learned anew: they belong to one shop.

    Args:
        model: of the new run, with all its weights made.
        schema: of the new run.
        transform_dir: of the new run.
        source: the earlier run, a training of the same stage, and what is taken from it.

    Raises:
        TrainingError: there is no such training, a chosen modality is in none or only one of the runs, or the tables
            do not fit.
    """
    previous, chosen = source
    then = read_schema(previous.transform_dir)
    _check_chosen(chosen, schema, then)
    strings = table_strings(schema, then, previous.transform_dir, transform_dir)
    values = read_weights(previous.step_dir)
    outcome = Transferred()
    taken: list[tuple[Table, np.ndarray]] = []
    for path, weight in weights_by_path(model).items():
        modality = _modality(path, schema)
        if path not in values or modality == _ANEW or not getattr(chosen, modality):
            continue
        if (moved := _moved(path, weight, values[path], strings, outcome, previous.step_dir)) is not None:
            taken.append((weight, moved))
    for weight, moved in taken:
        weight.assign(moved)
    _LOG.info("transfer from %s: %s", previous.step_dir, outcome)
    return outcome


def _modality(path: str, schema: FeatureSchema) -> str:
    """The key of `TransferConfig` that a weight belongs to, or `_ANEW`."""
    kinds = {feature.name: feature.kind for feature in schema.item}
    name = path.rpartition("/")[2]
    tower = _TOWER.fullmatch(path)
    part = tower[1] if tower else re.sub("_(embedding|ngrams)$", "", name)
    if name == "id_embedding" or part == BEHAVIOUR:
        return _ANEW
    if part == ATTRIBUTES and tower:
        return "attributes"
    if part not in kinds or (not tower and part == name):
        return "network"
    return next(modality for modality, of in _KINDS.items() if kinds[part] in of)


def _moved(
    path: str, weight: Table, values: np.ndarray, strings: Strings, outcome: Transferred, step_dir: Path
) -> np.ndarray | None:
    """What a weight becomes; None where it stays as it is."""
    name, shape = path.rpartition("/")[2], tuple(weight.shape)
    table = name in strings or name.endswith("_ngrams")
    fits = values.shape[1:] == shape[1:] if name in strings else values.shape == shape
    if not fits:
        if table:
            raise TrainingError(
                f"a transfer needs tables of the same shape: {name} is {list(values.shape)} in {step_dir} and "
                f"{list(shape)} here. Give this run the dimension and the n-gram buckets of that one."
            )
        outcome.other_shape.append(path.removeprefix("model/"))
        return None
    if name not in strings:
        outcome.weights += 1
        return values
    previous, current = strings[name]
    moved, matched = match_known_rows(weight.numpy(), values, previous.lines, current.lines)
    outcome.rows[name] = matched, len(moved) - FIRST
    return moved


def match_known_rows(
    start: np.ndarray, values: np.ndarray, previous: Sequence[str], current: Sequence[str]
) -> tuple[np.ndarray, int]:
    """A table with rows from another one where both have the string, and how many these are.

    Args:
        start: [len(current), …], what rows stay whose string is new.
        values: [len(previous), …].
        previous: string of each row of `values`; rows 0 and 1 are reserved and mean the same everywhere.
        current: string of each row of the result, likewise.
    """
    place = {string: row for row, string in enumerate(previous)}
    pairs = [(row, place[string]) for row, string in enumerate(current) if string in place]
    now, then = np.array(pairs, np.int64).reshape(-1, 2).T
    moved = start.copy()
    moved[now] = values[then]
    return moved, int((now >= FIRST).sum())


def _check_chosen(chosen: TransferConfig, schema: FeatureSchema, then: FeatureSchema) -> None:
    """Raises TrainingError where a modality is chosen that the runs do not share."""
    for modality in ("text", "picture", "attributes"):
        here, there = (set(_features(of, modality)) for of in (schema, then))
        if getattr(chosen, modality) and not here & there:
            raise TrainingError(
                f"transfer.{modality} is on, but the runs have no such feature in common: this one has "
                f"{', '.join(sorted(here)) or 'none'}, {chosen.run} has {', '.join(sorted(there)) or 'none'}. "
                f"Set transfer.{modality}=false."
            )


def _features(schema: FeatureSchema, modality: str) -> Iterator[str]:
    kinds = _KINDS[modality]
    return (feature.name for feature in schema.item if feature.kind in kinds and feature.name != BEHAVIOUR)
