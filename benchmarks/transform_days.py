"""A day joined to what stands, beside a transform of everything.

    python -m benchmarks.transform_days [--events 20000000] [--data FOLDER]

A simulated shop's events are delivered as a file for each day. A first transform reads all days but the newest, a
second joins the newest to it, a third reads everything; each in a process of its own. The outputs are compared byte by
byte, but for what is kept of the days.
"""

import argparse
import filecmp
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.machine import machine, table
from benchmarks.process_memory import measured
from benchmarks.transform_speed import shop
from transform.clock import DAY
from transform.tables import DAYS_FOLDER


def deliver(data: Path, target: Path) -> list[Path]:
    """The shop's events as a file for each day, whose names it returns; its catalogue beside them."""
    (target / "events").mkdir(parents=True)
    (target / "items.parquet").hardlink_to(data / "items.parquet")
    source = pq.ParquetFile(data / "events.parquet")
    writers: dict[int, pq.ParquetWriter] = {}
    for batch in source.iter_batches(1_000_000):
        day = batch.column("timestamp").to_numpy() // DAY
        for number in np.unique(day).tolist():
            if number not in writers:
                file = target / "events" / f"{np.datetime64(number, 'D')}.parquet"
                writers[number] = pq.ParquetWriter(file, source.schema_arrow)
            writers[number].write_table(pa.Table.from_batches([batch.filter(pa.array(day == number))]))
    for writer in writers.values():
        writer.close()
    return sorted((target / "events").iterdir())


def differing(first: Path, second: Path) -> list[str]:
    """Files of two outputs that are not the same."""
    names = {
        str(path.relative_to(folder))
        for folder in (first, second)
        for path in folder.rglob("*")
        if path.is_file() and not path.is_relative_to(folder / DAYS_FOLDER)
    }
    _, unlike, missing = filecmp.cmpfiles(first, second, sorted(names), shallow=False)
    return sorted([*unlike, *missing])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=20_000_000)
    parser.add_argument("--data", type=Path, help="folder in which the simulated shop is kept")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        kept = wanted.data or Path(temporary)
        kept.mkdir(parents=True, exist_ok=True)
        data = shop(kept, wanted.events)
        with tempfile.TemporaryDirectory(dir=kept) as folder:
            measure(Path(folder), deliver(data, Path(folder) / "data"))


def measure(folder: Path, days: list[Path]) -> None:
    """Prints the table of the three transforms."""
    side = [sys.executable, "-m", "benchmarks.transform_sides", "tandem", str(folder / "data")]
    aside = days[-1].rename(folder / days[-1].name)
    rows = []
    steps = {
        f"{len(days) - 1} days": [str(folder / "before")],
        "the newest day, joined": [str(folder / "joined"), "--previous", str(folder / "before")],
        f"all {len(days)} days anew": [str(folder / "anew")],
    }
    for name, arguments in steps.items():
        found = measured([*side, *arguments])
        if aside.exists():
            aside.rename(days[-1])
        figures = [f"{found.printed['seconds']:.1f}", f"{found.printed['processor']:.1f}"]
        rows.append([name, *figures, f"{found.peak_bytes / 2**30:.2f}"])
    print(f"\nTransform day by day. {machine()}\n")
    print(table(["", "seconds", "of the processor", "peak GiB, all processes"], rows))
    size = sum(path.stat().st_size for path in (folder / "joined" / DAYS_FOLDER).rglob("*") if path.is_file())
    unlike = differing(folder / "joined", folder / "anew")
    print(f"\nKept of the days: {size / 2**20:,.0f} MiB. Files that differ: {unlike or 0}")


if __name__ == "__main__":
    main()
