"""The transform on simulated events, beside plain Beam and beside polars, with the memory of all processes.

    python -m benchmarks.transform_speed [--sample 2000000] [--events 20000000 40000000] [--polars PYTHON]
        [--data FOLDER] [--beam-options direct_num_workers=2 direct_running_mode=multi_processing]

1. On the sample: Tandem, Beam with one element per event, and the polars script, each in a process of its own, one
   after the other. Their sequences are compared.
2. Tandem on the sample beside a crawler with `--crawler` events, of which the cap leaves the newest.
3. On each number of `--events`: Tandem, and the polars script if asked for; events/s and peak memory.

`--polars` is the interpreter of an environment with benchmarks/polars.txt. Ours does more in its time: it checks rows,
builds the vocabularies of content, and writes the items, samples and statistics. `--data` keeps the simulated shops.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.machine import machine, table
from benchmarks.process_memory import Measured, measured
from benchmarks.transform_sides import rules_of
from trainer.data import Sequences, load_sequences
from transform.beam_transform import STATISTICS_FILE
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


def with_crawler(data: Path, folder: Path, events: int) -> Path:
    """The shop and a shopper who did its first `events` events, at their times, all over again."""
    target = folder / "crawler"
    (target / "events").mkdir(parents=True)
    (target / "items.parquet").hardlink_to(data / "items.parquet")
    (target / "events" / "shop.parquet").hardlink_to(data / "events.parquet")
    source = pq.ParquetFile(data / "events.parquet")
    with pq.ParquetWriter(target / "events" / "crawler.parquet", source.schema_arrow) as writer:
        for batch in source.iter_batches():
            taken = pa.Table.from_batches([batch.slice(0, events)])
            for name, value in (("user_id", "crawler"), ("session", None)):
                place = taken.schema.get_field_index(name)
                taken = taken.set_column(place, name, pa.array([value] * len(taken), pa.string()))
            writer.write_table(taken)
            events -= len(taken)
            if not events:
                return target
    raise ValueError(f"the shop in {data} has {events} events fewer than the crawler shall have.")


def measure_crawler(data: Path, wanted: argparse.Namespace) -> None:
    """Prints what one shopper with very many events costs."""
    rows = []
    with tempfile.TemporaryDirectory(dir=data.parent) as folder:
        crawled = with_crawler(data, Path(folder), wanted.crawler)
        for name, source in (("the shop", data), (f"and a crawler with {wanted.crawler:,} events", crawled)):
            output = Path(folder) / name
            output.mkdir()
            found = run_side("tandem", source, output, wanted)
            statistics = json.loads((output / "tandem" / STATISTICS_FILE).read_text())
            seconds, read = found.printed["seconds"], statistics["rows_read"]
            counts = [f"{read:,}", f"{statistics['over_cap']:,}"]
            rows.append([name, *counts, f"{seconds:.1f}", f"{read / seconds:,.0f}", f"{found.peak_bytes / 2**30:.2f}"])
    print(f"\nOne shopper with very many events. {machine()}\n")
    print(table(["", "events", "over the cap", "seconds", "events/s", "peak GiB"], rows), flush=True)


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
            figures = [
                f"{seconds:.1f}",
                f"{found.printed['processor']:.1f}",
                f"{events / seconds:,.0f}",
                f"{found.peak_bytes / 2**30:.2f}",
            ]
            rows.append([_NAMES[side], *figures, f"{seconds / ours:.2f}×"])
            if side != "tandem":
                shoppers, wrong = differing(Path(folder) / "tandem", Path(folder) / side, _COMPARED[side])
                notes.append(
                    f"{side}: {shoppers:,} shoppers, {wrong:,} with other sequences ({', '.join(_COMPARED[side])})"
                )
    print(f"\nTransform, {events:,} events to TFRecords. {machine()}, psutil {psutil.__version__}\n")
    print(
        table(["", "seconds", "of the processor", "events/s", "peak GiB, all processes", "Tandem is faster by"], rows),
        flush=True,
    )
    print("\n" + "\n".join(notes), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=2_000_000, help="events of the comparison with plain Beam")
    parser.add_argument("--events", type=int, nargs="*", default=[20_000_000, 40_000_000])
    parser.add_argument("--crawler", type=int, default=1_000_000, help="events of one more shopper; 0 = none")
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
        if wanted.sample and wanted.crawler:
            measure_crawler(shop(folder, wanted.sample), wanted)
        for events in wanted.events:
            measure(shop(folder, events), ["tandem", *rivals], wanted)


if __name__ == "__main__":
    main()
