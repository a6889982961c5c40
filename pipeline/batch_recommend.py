"""`tandem batch-recommend` and `tandem batch-similar`: lists for every shopper or product, in one Beam job."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import apache_beam as beam
import pyarrow as pa
from apache_beam.ml.inference.base import KeyedModelHandler, RunInference
from apache_beam.utils.shared import Shared

from pipeline.batch_folder import UNKNOWN_USERS, BatchFolder
from pipeline.batch_inference import Arrays, SignatureHandler
from pipeline.batch_model import BatchModel, published_model
from pipeline.batch_output import FORMATS, ITEM_IDS, SCORES, Format, lists_table, write_lists
from pipeline.batch_shards import (
    USER_ID,
    Asker,
    ProductAsker,
    Shard,
    ShopperAsker,
    choose_shoppers,
    digest_of,
    product_shards,
    read_users,
    shopper_shards,
)
from pipeline.publish import newest_refresh
from pipeline.refresh import CATALOGUE
from pipeline.runner import StepError, locked, read_record, step_directory
from pipeline.shopper_histories import transformed
from serving.client_query import Context
from serving.client_signature import Signature
from serving.options import CORES
from trainer.record_scan import available_items
from transform.beam_pipeline import beam_pipeline
from transform.config import BeamConfig

log = logging.getLogger(__name__)

ITEM_ID = "item_id"
Kind = Literal["recommend", "similar_items", "complementary_items"]
# Both cores of a small machine, one session: of the local runner's ways the one that loads the model once.
LOCAL_THREADS = BeamConfig(options=("--direct_running_mode=multi_threading", f"--direct_num_workers={CORES}"))
_PROGRESS_SECONDS = 10.0


@dataclass(frozen=True)
class BatchOptions:
    """What is asked for.

    Args:
        run: holds the published model and the shoppers' data.
        out: folder for the shards.
        kind: the signature that is asked.
        users: a file of shoppers; None = all. Refused for products.
        unknown_as_new: answer those that the data do not have as new visitors.
        timestamp: the time the lists are for, seconds since 1970 (UTC); None = not told, as a client that does not.
        k: products of each list.
        model: name of the published model.
        format: of the shards; None = by the suffix of `out`, else Parquet.
        batch_size: rows that the model is asked for at once.
        shard_size: rows of a shard, which is what a killed job loses of each worker.
        beam: runner and its options.
        restart: throw away shards that were made for something else.
    """

    run: Path
    out: Path
    kind: Kind = "recommend"
    users: Path | None = None
    unknown_as_new: bool = False
    timestamp: int | None = None
    k: int = 20
    model: str = "recommender"
    format: Format | None = None
    batch_size: int = 128
    shard_size: int = 4_096
    beam: BeamConfig = field(default_factory=lambda: LOCAL_THREADS)
    restart: bool = False

    def __post_init__(self) -> None:
        for name in ("k", "batch_size", "shard_size"):
            if getattr(self, name) < 1:
                raise StepError(f"{name} must be at least 1, received {getattr(self, name)}.")

    @property
    def written_as(self) -> Format:
        """The format.

        Raises:
            StepError: the suffix of `out` says another one than `format`.
        """
        by_suffix = next((name for name in FORMATS if self.out.suffix == f".{name}"), None)
        if self.format and by_suffix and self.format != by_suffix:
            raise StepError(f"--out {self.out} is named as {by_suffix}, --format says {self.format}: leave one out.")
        return self.format or by_suffix or "parquet"


@dataclass(frozen=True)
class _Work:
    """Who is asked, cut into shards."""

    shards: list[Shard]
    # Makes what reads the shards, once in each worker process.
    asker: Callable[[], Asker]
    # What of the data decides the lists.
    made_for: dict[str, Any]
    counts: dict[str, int]
    unknown: tuple[str, ...] = ()


def batch_recommend(options: BatchOptions) -> dict[str, Any]:
    """Writes the lists that a server of the run's newest version would answer; only shards that are missing.

    Returns:
        What the file _SUCCESS then holds: the model's version, counts, and seconds of this process.

    Raises:
        StepError: no published model or data, options that do not fit it, or a folder made for something else.
        DamagedRecordError: the data are damaged.
        RuntimeError: a worker met an exception, or ended.
    """
    started = time.monotonic()
    model = published_model(options.run, options.model)
    model.signature(options.kind, options.k)
    work = _shoppers(options, model) if options.kind == "recommend" else _products(options)
    folder = BatchFolder(options.out, len(work.shards), options.written_as)
    rows = sum(work.counts[name] for name in ("shoppers", "new_visitors", "products") if name in work.counts)
    with locked(options.out):
        folder.begin(_made_for(options, model, work), options.restart)
        missing = folder.missing()
        log.info("%d rows in %d shards, %d of them to do", rows, folder.shards, len(missing))
        if missing:
            with _progress(folder, len(missing), rows / folder.shards):
                _run(options, model, work, [work.shards[number] for number in missing], folder)
        result = {
            "model": model.name,
            "version": model.version,
            "signature": options.kind,
            "k": options.k,
            **work.counts,
            "shards": folder.shards,
            "shards_of_this_run": len(missing),
            "seconds": round(time.monotonic() - started, 1),
        }
        folder.finish(result, work.unknown)
    return result


def summary(result: dict[str, Any], out: Path) -> str:
    """What was written, in a few lines for people."""
    what = ", ".join(
        f"{result[name]:,} {name.replace('_', ' ')}"
        for name in ("shoppers", "new_visitors", "unknown_users", "repeated_users", "empty_histories", "products")
        if name in result
    )
    lines = [
        f"{out}: {what}; {result['shards']} shards, {result['shards_of_this_run']} of them now, "
        f"by {result['model']} version {result['version']} in {result['seconds']:.0f} s."
    ]
    if result.get("unknown_users"):
        lines.append(f"Shoppers that the data do not have: {out / UNKNOWN_USERS}")
    return "\n".join(lines)


def _made_for(options: BatchOptions, model: BatchModel, work: _Work) -> dict[str, Any]:
    return {
        "model": f"{model.name} version {model.version}",
        "model files": model.fingerprint,
        "signature": options.kind,
        "k": options.k,
        "timestamp": options.timestamp,
        "format": options.written_as,
        "shard size": options.shard_size,
        **work.made_for,
    }


def _shoppers(options: BatchOptions, model: BatchModel) -> _Work:
    directory = transformed(options.run)
    users = read_users(options.users) if options.users is not None else None
    chosen = choose_shoppers(directory, users)
    new = chosen.unknown if options.unknown_as_new else ()
    if chosen.unknown:
        log.warning(
            "%d of the shoppers asked for are not among the %d of the data, the first %s: %s",
            *(len(chosen.unknown), len(chosen.places.user_ids), chosen.unknown[0]),
            "answered as new visitors" if new else "left out (--unknown-as-new answers them as new visitors)",
        )
    shards = shopper_shards(chosen, new, options.shard_size)
    signature, context = model.signature(options.kind, options.k), Context(timestamp=options.timestamp)
    return _Work(
        shards,
        _ShopperAskers(directory, signature, context, options.k),
        {
            "data": (read_record(directory) or {})["fingerprint"],
            "shoppers": "all" if users is None else digest_of(users),
            "unknown as new": bool(options.unknown_as_new),
        },
        {
            "shoppers": len(chosen.numbers),
            "new_visitors": len(new),
            "unknown_users": len(chosen.unknown),
            "repeated_users": chosen.repeated,
            "empty_histories": int((chosen.places.lengths[chosen.numbers] == 0).sum()) + len(new),
        },
        chosen.unknown,
    )


@dataclass(frozen=True)
class _ShopperAskers:
    directory: Path
    signature: Signature
    context: Context
    k: int

    def __call__(self) -> Asker:
        return ShopperAsker(self.directory, self.signature, self.context, self.k)


def _products(options: BatchOptions) -> _Work:
    if options.users is not None:
        raise StepError("--users names shoppers; lists beside products are made for every available product.")
    directory = transformed(options.run)
    exported = read_record(step_directory(options.run, "export"))
    refreshed = newest_refresh(options.run, exported["fingerprint"]) if exported else None
    item_ids = available_items(refreshed / CATALOGUE if refreshed else directory)
    return _Work(
        product_shards(item_ids, options.shard_size),
        ProductAsker,
        {"products": digest_of(item_ids)},
        {"products": len(item_ids)},
    )


def _run(options: BatchOptions, model: BatchModel, work: _Work, shards: Sequence[Shard], folder: BatchFolder) -> None:
    handler = SignatureHandler(model.directory, options.kind, (ITEM_IDS, SCORES), options.batch_size)
    key = USER_ID if options.kind == "recommend" else ITEM_ID
    label = f"Batch job, asking {options.kind} for {len(shards)} of {folder.shards} shards"
    with beam_pipeline(options.beam, label) as pipeline:
        _ = (
            pipeline
            | "Shards" >> beam.Create(list(shards))
            | "Read" >> beam.ParDo(_Read(work.asker))
            | "Ask" >> RunInference(KeyedModelHandler(handler))
            | "Write" >> beam.ParDo(_Write(folder, key, options.k))
        )


class _Read(beam.DoFn):
    """Shards → (number and names of the rows, inputs)."""

    def __init__(self, make: Callable[[], Asker]) -> None:
        self._make = make
        # The vocabulary of products is held once by the threads of a worker.
        self._shared = Shared()

    def setup(self) -> None:
        self._asker: Asker = self._shared.acquire(self._make)

    def process(self, shard: Shard) -> Iterator[tuple[tuple[int, list[str]], Arrays]]:
        asked, inputs = self._asker.read(shard)
        yield (shard.number, asked), inputs


class _Write(beam.DoFn):
    """(number and names of the rows, outputs) → files; emits nothing."""

    def __init__(self, folder: BatchFolder, key: str, k: int) -> None:
        self._folder = folder
        self._key = key
        self._k = k

    def process(self, element: tuple[tuple[int, list[str]], Arrays]) -> None:
        (number, asked), answers = element
        lists: pa.Table = lists_table(self._key, asked, answers[ITEM_IDS], answers[SCORES], self._k)
        write_lists(self._folder.shard(number), lists, self._folder.format)


@contextmanager
def _progress(folder: BatchFolder, shards: int, rows: float) -> Iterator[None]:
    """Says now and then how many of `shards`, of so many `rows` each, are there: the folder knows, whatever runs the
    job."""
    ended = threading.Event()
    started = time.monotonic()

    def watch() -> None:
        said = 0
        while not ended.wait(_PROGRESS_SECONDS):
            done = shards - len(folder.missing())
            if done > said:
                said, seconds = done, time.monotonic() - started
                log.info(
                    "%d of %d shards, %.0f rows/s, about %.0f s left",
                    *(done, shards, done * rows / seconds, seconds / done * (shards - done)),
                )

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
