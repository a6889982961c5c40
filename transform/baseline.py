"""What is kept of a run's data so that later data can be compared with it."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from transform.arrow_files import read_table, write_json, write_table
from transform.checks import DataError
from transform.data_statistics import Statistics
from transform.feature_schema import ITEM_IDS_FILE, VOCABULARY_FOLDER, read_vocabulary
from transform.fingerprints import fingerprint, share
from transform.tables import FIRST

# Folder of the validation's output.
PROFILE = "profile"
_DAYS, _ITEM_IDS, _FACTS = "days.arrow", "item_ids.arrow", "facts.json"
_KEPT_IDS = 10_000


@dataclass(frozen=True)
class Profile:
    """Exact counts, statistics by dataset, and a draw of product ids, of one run's data."""

    days: pa.Table  # see transform/day_counts.py
    # "train", "validation", "test", "items", "events" and "events, region=north" …
    statistics: dict[str, Statistics]
    item_ids: pa.Array  # drawn by their hash
    facts: dict[str, int]  # rows_read, rejected, items

    def write(self, folder: Path) -> None:
        """Writes everything below `folder`, which is made anew."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_table(str(folder / _DAYS), self.days)
        write_table(str(folder / _ITEM_IDS), pa.table({"item_id": self.item_ids}))
        for number, (name, found) in enumerate(self.statistics.items()):
            file = folder / f"statistics-{number:03d}.pb"
            named = Statistics()
            named.CopyFrom(found)
            named.datasets[0].name = name
            file.write_bytes(named.SerializeToString())
        write_json(str(folder / _FACTS), self.facts)


def read_profile(folder: Path) -> Profile:
    """The profile that `Profile.write` left.

    Raises:
        DataError: a file is missing or damaged.
    """
    try:
        statistics = [Statistics.FromString(file.read_bytes()) for file in sorted(folder.glob("statistics-*.pb"))]
        return Profile(
            read_table(str(folder / _DAYS)),
            {found.datasets[0].name: found for found in statistics},
            read_table(str(folder / _ITEM_IDS))["item_id"].combine_chunks(),
            json.loads((folder / _FACTS).read_text(encoding="utf-8")),
        )
    except (OSError, ValueError, pa.ArrowInvalid, IndexError) as error:
        raise DataError(
            f"{folder}: cannot be read as the statistics of a blessed run: {error}. Name another validate.baseline, or "
            "delete the folder: the next run that is published writes it again."
        ) from error


def drawn_item_ids(transform_dir: Path) -> pa.Array:
    """About 10,000 product ids, drawn by their hash: the same ones of any catalogue that has them."""
    ids = pa.array(all_item_ids(transform_dir), pa.string())
    return ids.filter(pa.array(share(fingerprint(ids)) < _KEPT_IDS / max(len(ids), 1))) if len(ids) else ids


def all_item_ids(transform_dir: Path) -> list[str]:
    """Every product of the transform's catalogue, by row."""
    return read_vocabulary(transform_dir / VOCABULARY_FOLDER / ITEM_IDS_FILE)[FIRST:]


def kept_share(before: pa.Array, now: list[str]) -> float:
    """Share of the ids `before` that are still there; 1 if there were none."""
    return float(pc.mean(pc.is_in(before, value_set=pa.array(now, pa.string()))).as_py()) if len(before) else 1.0
