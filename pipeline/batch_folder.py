"""The folder of a batch job: what it was made for, which shards are there, and that it is whole."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.batch_output import Format, shard_name
from pipeline.runner import StepError, write_json

# Readers of Parquet folders leave out names that begin with an underscore.
MANIFEST = "_MANIFEST.json"
SUCCESS = "_SUCCESS"
UNKNOWN_USERS = "_UNKNOWN_USERS"
_PARTS = "part-*"
_VALUE_SHOWN = 24


@dataclass(frozen=True)
class BatchFolder:
    """Shards under `path`; one is either whole or not there."""

    path: Path
    shards: int
    format: Format

    def shard(self, number: int) -> Path:
        """File of a shard."""
        return self.path / shard_name(number, self.shards, self.format)

    def missing(self) -> list[int]:
        """Numbers of the shards that are not there."""
        return [number for number in range(self.shards) if not self.shard(number).is_file()]

    def begin(self, made_for: dict[str, Any], restart: bool) -> None:
        """Makes the folder ready for what is missing.

        Args:
            made_for: everything that decides what stands in the shards.
            restart: throw away what was made for anything else.

        Raises:
            StepError: the folder holds what was made for something else, or files that no batch job wrote.
        """
        manifest = self.path / MANIFEST
        if manifest.is_file():
            before = json.loads(manifest.read_text(encoding="utf-8"))["made_for"]
            changes = _changes(before, made_for)
            if changes and not restart:
                raise StepError(
                    f"{self.path} holds {len(self._parts())} shards that were made for something else: "
                    f"{'; '.join(changes)}. Give another --out, or --restart to throw them away."
                )
            if changes or restart:
                self._clear()
        elif others := sorted(path.name for path in self.path.iterdir() if not path.name.startswith(".")):
            raise StepError(f"{self.path} holds files that no batch job wrote ({others[0]}): give another --out.")
        for partial in self.path.glob(f"{_PARTS}.partial"):
            partial.unlink()
        (self.path / SUCCESS).unlink(missing_ok=True)
        write_json(manifest, {"made_for": made_for, "shards": self.shards})

    def finish(self, counts: dict[str, Any], unknown: Sequence[str]) -> None:
        """Says that all is there.

        Raises:
            StepError: it is not.
        """
        missing = self.missing()
        if missing:
            raise StepError(
                f"{len(missing)} of {self.shards} shards are missing in {self.path}, the first {missing[0]}: the "
                "workers must write where this process reads. Run the command again for what is missing."
            )
        if unknown:
            (self.path / UNKNOWN_USERS).write_text("".join(f"{user}\n" for user in unknown), encoding="utf-8")
        write_json(self.path / SUCCESS, counts)

    def succeeded(self) -> dict[str, Any] | None:
        """What `finish` was told; None if it was not."""
        success = self.path / SUCCESS
        return json.loads(success.read_text(encoding="utf-8")) if success.is_file() else None

    def _parts(self) -> list[Path]:
        return [path for path in self.path.glob(_PARTS) if path.suffix != ".partial"]

    def _clear(self) -> None:
        # First what says that the rest is whole.
        for path in (self.path / SUCCESS, self.path / UNKNOWN_USERS, *self.path.glob(_PARTS), self.path / MANIFEST):
            path.unlink(missing_ok=True)


def _changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs, for people."""
    return [
        f"{name} was {_shown(before.get(name))}, is {_shown(now.get(name))}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _VALUE_SHOWN else f"{text[:_VALUE_SHOWN]}…"
