"""The transform as one would write it by hand with polars, in an environment of its own: imports nothing of Tandem.

    python polars_transform.py DATA OUTPUT VALIDATION_START TEST_START GAP_SECONDS TYPE …

DATA holds events.parquet and items.parquet of a simulated shop; the starts of the validation and the test span are
seconds; TYPE … are all event types in order of strength as `name=number`, those of histories with a `+` before them.
Everything is in memory, on all cores that polars finds. polars has no writer of TFRecords: its columns are encoded by
hand, with one Python call for each feature of each shopper. Prints one JSON line: seconds, those of its two parts, and
those of the processor.

The sequences are Tandem's: same rules, same features but for the ways in. Tandem's checks of rows, its items TFRecords,
samples, vocabularies of content and statistics are left out.
"""

import json
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import google_crc32c
import polars as pl

LISTS = ("rows", "types", "labels", "timestamps", "sessions", "baskets", "devices", "regions", "prices", "quantities")


def read(data: Path, numbers: dict[str, int]) -> pl.DataFrame:
    """Events in order, exact copies left out, names as codes."""
    events = pl.scan_parquet(data / "events.parquet").with_row_index("row")
    types = pl.col("type").replace_strict(numbers, return_dtype=pl.Int8)
    names = [
        pl.col(name).cast(pl.Categorical) for name in ("item_id", "session", "order", "device", "region", "surface")
    ]
    rest = pl.struct("attribution_token", pl.col("attributes").list.join("\x00")).hash().alias("rest")
    frame = events.select(
        "row", pl.col("user_id").cast(pl.Categorical), *names, "timestamp", types, "quantity", "price", "position", rest
    )
    ordered = frame.sort("user_id", "timestamp", "row").collect()
    # Only events of one shopper at one time can be copies.
    tied = pl.struct("user_id", "timestamp").is_duplicated()
    copies = pl.struct(pl.exclude("row", "tied")).is_first_distinct()
    alone = ordered.filter(~tied)
    among = ordered.filter(tied).filter(copies)
    return pl.concat([alone, among]).sort("user_id", "timestamp", "row") if len(among) else ordered


def interactions(events: pl.DataFrame, kept: list[int], gap: int, cuts: tuple[int, int]) -> pl.DataFrame:
    """Sessions over all events; runs on one product within session, span and order are one row."""
    user = "user_id"
    unnamed = pl.col("session").is_null()
    pauses = (pl.col("timestamp").diff().over(user, "unnamed") > gap).fill_null(False).cum_sum().over(user, "unnamed")
    place = pl.int_range(pl.len(), dtype=pl.UInt32)
    events = events.with_columns(place=place, unnamed=unnamed)
    events = events.with_columns(pause=pl.when("unnamed").then(pauses))
    events = events.with_columns(number=pl.col("place").min().over(user, "session", "pause"))
    history = events.filter(pl.col("type").is_in(kept)).with_columns(
        basket=pl.col("place").min().over(user, "timestamp", "order"),
        span=(pl.col("timestamp") >= cuts[0]).cast(pl.Int8) + (pl.col("timestamp") >= cuts[1]).cast(pl.Int8),
    )
    history = history.with_columns(product=pl.col("place").min().over("basket", "item_id"))
    arranged = history.sort(user, "number", "basket", "product", "place")
    same = pl.all_horizontal(pl.col(name) == pl.col(name).shift() for name in (user, "number", "item_id", "span"))
    arranged = arranged.with_columns(run=(~same).fill_null(True).cum_sum())
    before = pl.col("order").forward_fill().shift().over("run")
    other = (pl.col("order") != before).fill_null(False)
    arranged = arranged.with_columns(run=(other | (pl.col("run") != pl.col("run").shift()).fill_null(True)).cum_sum())
    strongest = pl.col("type") == pl.col("type").max().over("run")
    labels = (
        arranged.select("run", bit=2 ** pl.col("type").cast(pl.Int64))
        .unique()
        .group_by("run")
        .agg(label=pl.col("bit").sum())
    )
    merged = (
        arranged.filter(strongest)
        .group_by("run", maintain_order=True)
        .agg(pl.all().exclude("quantity").first(), quantity=pl.col("quantity").fill_null(1).sum().cast(pl.Float32))
    )
    return merged.join(labels, on="run").sort("basket", "place")


def sequences(found: pl.DataFrame, catalogue: pl.DataFrame) -> pl.DataFrame:
    """One row for each shopper, lists in time order."""

    def vocabulary(name: str) -> pl.DataFrame:
        counts = found.filter(pl.col("span") == 0, pl.col(name).is_not_null()).group_by(name).len()
        words = counts.filter(pl.col("len") >= 2).sort(
            pl.col("len"), pl.col(name).cast(pl.String), descending=[True, False]
        )
        return words.select(name, pl.int_range(2, pl.len() + 2).alias(f"{name}_row"))

    found = found.join(catalogue, on="item_id", how="left", maintain_order="left")
    for name in ("device", "region"):
        found = found.join(vocabulary(name), on=name, how="left", maintain_order="left").with_columns(
            pl.when(pl.col(name).is_null()).then(0).otherwise(pl.col(f"{name}_row").fill_null(1)).alias(f"{name}_row")
        )
    dense = [
        (pl.col(name).rank("dense").over("user_id") - 1).cast(pl.Int64).alias(name) for name in ("number", "basket")
    ]
    return (
        found.with_columns(dense)
        .group_by("user_id", maintain_order=True)
        .agg(
            rows="item_row",
            types="type",
            labels="label",
            timestamps="timestamp",
            sessions="number",
            baskets="basket",
            devices="device_row",
            regions="region_row",
            prices=pl.col("price").fill_null(float("nan")),
            quantities="quantity",
            train_end=(pl.col("span") == 0).sum(),
            validation_end=(pl.col("span") < 2).sum(),
        )
    )


def varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


SMALL = [varint(number) for number in range(1 << 14)]


def delimited(tag: bytes, content: bytes) -> bytes:
    return tag + SMALL[len(content)] + content if len(content) < 1 << 14 else tag + varint(len(content)) + content


def feature(key: bytes, kind: bytes, values: bytes) -> bytes:
    return delimited(b"\x0a", key + delimited(b"\x12", delimited(kind, delimited(b"\x0a", values))))


def integers(values: list[int]) -> bytes:
    return b"".join([SMALL[value] if value < 1 << 14 else varint(value) for value in values])


def examples(frame: pl.DataFrame) -> Iterator[bytes]:
    """tf.train.Examples by hand (tensorflow/core/example/example.proto)."""
    keys = {name: delimited(b"\x0a", name.encode()) for name in ("user_id", "train_end", "validation_end", *LISTS)}
    for row in frame.iter_rows(named=True):
        entries = [feature(keys["user_id"], b"\x0a", row["user_id"].encode())]
        for name in LISTS:
            values = row[name]
            if name in ("prices", "quantities"):
                entries.append(feature(keys[name], b"\x12", struct.pack(f"<{len(values)}f", *values)))
            else:
                entries.append(feature(keys[name], b"\x1a", integers(values)))
        for name in ("train_end", "validation_end"):
            entries.append(feature(keys[name], b"\x1a", integers([row[name]])))
        yield delimited(b"\x0a", b"".join(entries))


def masked_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return ((((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


def write(path: Path, records: Iterator[bytes]) -> None:
    with path.open("wb") as file:
        for record in records:
            length = len(record).to_bytes(8, "little")
            file.write(b"".join((length, masked_crc(length), record, masked_crc(record))))


def main() -> None:
    data, output, validation, test, gap, *types = sys.argv[1:]
    numbers = {name.lstrip("+"): int(number) for name, number in (text.split("=") for text in types)}
    kept = [int(text.split("=")[1]) for text in types if text.startswith("+")]
    started, spent = time.perf_counter(), time.process_time()
    events = read(Path(data), numbers)
    items = pl.read_parquet(Path(data) / "items.parquet", columns=["item_id"])
    named = pl.concat([items, events.select(pl.col("item_id").cast(pl.String).drop_nulls().unique())])
    catalogue = named.unique().sort("item_id").with_columns(item_row=pl.int_range(2, pl.len() + 2))
    catalogue = catalogue.with_columns(pl.col("item_id").cast(pl.Categorical))
    found = sequences(interactions(events, kept, int(gap), (int(validation), int(test))), catalogue)
    framed = time.perf_counter()
    Path(output).mkdir(exist_ok=True)
    write(Path(output) / "sequences-00000-of-00001.tfrecord", examples(found))
    ended = time.perf_counter()
    seconds = {"seconds": ended - started, "frames": framed - started, "records": ended - framed}
    seconds["processor"] = time.process_time() - spent
    print(json.dumps({**seconds, "polars": pl.__version__}))


if __name__ == "__main__":
    main()
