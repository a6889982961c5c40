"""The transform on simulated events, beside plain Beam and beside polars, with the memory of all processes.

    python -m benchmarks.transform_speed [--sample 2000000] [--events 20000000 40000000] [--polars PYTHON]
        [--data FOLDER] [--beam-options direct_num_workers=2 direct_running_mode=multi_processing]

1. On the sample: Tandem, Beam with one element per event, and the polars script, each in a process of its own, one
   after the other. Their sequences are compared.
2. On each number of `--events`: Tandem, and the polars script if asked for; events/s and peak memory.

`--polars` is the interpreter of an environment with benchmarks/polars.txt. Ours does more in its time: it checks rows,
builds the vocabularies of content, and writes the items, samples and statistics. `--data` keeps the simulated shops.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq

from benchmarks.machine import machine, table
from benchmarks.process_memory import Measured, measured
from benchmarks.transform_sides import rules_of
from trainer.data import Sequences, load_sequences
from transform.simulator import SimulatorConfig, simulate
from transform.tables import EVENT_TYPES

# Features that each side's sequences have.
_COMPARED = {
    "plain": ("rows", "types", "labels", "timestamps", "sessions"),
    "polars": ("rows", "types", "labels", "timestamps", "sessions", "baskets", "devices", "regions"),
}
_SHOPPER_EVENTS = 25
_NAMES = {"tandem": "Tandem, columnar", "plain": "plain Beam, one element per event", "polars": "polars, by hand"}


def shop(folder: Path, events: int) -> Path:
    """A simulated shop of about so many events, made if it is not there."""
    data = folder / f"shop-{events}"
    if not data.exists():
        simulate(data, SimulatorConfig(events=events, shoppers=events // _SHOPPER_EVENTS, pictures=False))
    return data


def run_side(side: str, data: Path, output: Path, wanted: argparse.Namespace) -> Measured:
    """One side in a process of its own; plain Beam and polars are told the cuts that Tandem has found."""
    if side != "polars":
        command = [sys.executable, "-m", "benchmarks.transform_sides", side, str(data), str(output / side)]
        if side == "tandem" and wanted.beam_options:
            command += ["--beam-options", *wanted.beam_options]
        return measured(command)
    rules = rules_of(output / "tandem")
    assert rules.cuts is not None
    types = [f"{'+' * (number in rules.history_types)}{name}={number}" for name, number in EVENT_TYPES.items()]
    numbers = map(str, (*rules.cuts, rules.session_gap_seconds))
    script = str(Path(__file__).with_name("polars_transform.py"))
    return measured([wanted.polars, script, str(data), str(output / side), *numbers, *types])


def differing(ours: Path, theirs: Path, features: tuple[str, ...]) -> tuple[int, int]:
    """Shoppers in both outputs together, and those whose sequences are not the same in `features` and spans."""
    first, second = _by_user(load_sequences(ours), features), _by_user(load_sequences(theirs), features)
    users = first.keys() | second.keys()
    return len(users), sum(first.get(user) != second.get(user) for user in users)


def _by_user(sequences: Sequences, features: tuple[str, ...]) -> dict[str, bytes]:
    arrays = [getattr(sequences, name).astype(np.int64) for name in features]
    ends = np.column_stack([sequences.train_end, sequences.validation_end])
    return {
        user: b"".join([ends[number].tobytes(), *(array[start:stop].tobytes() for array in arrays)])
        for number, (user, start, stop) in enumerate(
            zip(sequences.user_ids, sequences.offsets[:-1], sequences.offsets[1:], strict=True)
        )
    }


def measure(data: Path, sides: list[str], wanted: argparse.Namespace) -> None:
    """Runs the sides one after the other and prints their table and how their sequences compare."""
    events = pq.ParquetFile(data / "events.parquet").metadata.num_rows
    rows, notes, ours = [], [], 0.0
    with tempfile.TemporaryDirectory(dir=data.parent) as folder:
        for side in sides:
            found = run_side(side, data, Path(folder), wanted)
            seconds = found.printed["seconds"]
            ours = ours or seconds
            figures = [f"{seconds:.1f}", f"{events / seconds:,.0f}", f"{found.peak_bytes / 2**30:.2f}"]
            rows.append([_NAMES[side], *figures, f"{seconds / ours:.2f}×"])
            if side != "tandem":
                shoppers, wrong = differing(Path(folder) / "tandem", Path(folder) / side, _COMPARED[side])
                notes.append(
                    f"{side}: {shoppers:,} shoppers, {wrong:,} with other sequences ({', '.join(_COMPARED[side])})"
                )
    print(f"\nTransform, {events:,} events to TFRecords. {machine()}, psutil {psutil.__version__}\n")
    print(table(["", "seconds", "events/s", "peak GiB, all processes", "Tandem is faster by"], rows), flush=True)
    print("\n" + "\n".join(notes), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=2_000_000, help="events of the comparison with plain Beam")
    parser.add_argument("--events", type=int, nargs="*", default=[20_000_000, 40_000_000])
    parser.add_argument("--polars", help="interpreter of an environment with benchmarks/polars.txt")
    parser.add_argument("--data", type=Path, help="folder in which simulated shops are kept")
    parser.add_argument("--beam-options", nargs="*", default=[], help="without their dashes")
    wanted = parser.parse_args()
    if wanted.polars:
        subprocess.run([wanted.polars, "-c", "import polars, google_crc32c"], check=True)
    rivals = ["polars"] if wanted.polars else []
    with tempfile.TemporaryDirectory() as temporary:
        folder = wanted.data or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if wanted.sample:
            measure(shop(folder, wanted.sample), ["tandem", "plain", *rivals], wanted)
        for events in wanted.events:
            measure(shop(folder, events), ["tandem", *rivals], wanted)


if __name__ == "__main__":
    main()
