"""Faults on the way of the data: afterwards there is all of the output or none, and the rerun completes it."""

import bz2
import gzip
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from pipeline.chain import STEPS
from pipeline.config import load_config
from pipeline.runner import RECORD, StepError, run_steps
from tests.transform.event_logs import write_busy_shop, write_files
from tests.transform.faults import full_disk, killed_at, raising, start, tandem
from tests.transform.small_tables import config, event, files_of, write
from transform.beam_transform import run_transform
from transform.checks import DataError
from transform.clock import DAY
from transform.import_table import import_table
from transform.table_map import TableMap

_BUCKETS = "transform.buckets=3"
_LESS = "transform.session_gap_minutes=5"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_busy_shop(tmp_path_factory.mktemp("data"), events=8_000)


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return completed(data, tmp_path_factory.mktemp("undisturbed"))


def completed(data: Path, run: Path, *overrides: str) -> dict[str, bytes]:
    """The files of the transform after the same command without a fault; nothing else is left beside them."""
    run_steps(STEPS, load_config(None, [_BUCKETS, *overrides]), data, run, only="transform")
    assert [path.name for path in (run / "steps").iterdir()] == ["transform"]
    return finished(run)


def finished(run: Path) -> dict[str, bytes]:
    """Output by file; the record tells how long it took."""
    return {name: content for name, content in files_of(run / "steps" / "transform").items() if name != RECORD}


def check_nothing(run: Path, data: Path) -> None:
    """No reader takes for whole what the fault left."""
    assert not (run / "steps" / "transform").exists()
    with pytest.raises(StepError, match="validate needs transform, which is missing"):
        run_steps(STEPS, load_config(None, [_BUCKETS]), data, run, only="validate")


def transform(
    data: Path, run: Path, *overrides: str, fault: Callable[..., None] | None = None, **more: Any
) -> tuple[int, str]:
    """Exit status and messages of `tandem transform`, with a fault or without."""
    log = run.with_suffix(".log")
    settings = [part for override in (_BUCKETS, *overrides) for part in ("--set", override)]
    status = tandem(log, "transform", "--data", data, "--out", run, *settings, fault=fault, **more)
    return status, log.read_text()


# In the order of a run: what is done just then, and to which path.
MOMENTS = [
    ("os.rename", "config.json"),
    ("os.mkdir", "steps/.transform.*.partial"),
    ("os.rename", "tmp/events/*/*.arrow"),
    ("os.rename", "tmp/events.json"),
    ("os.rename", "tmp/buckets/products-00001.arrow"),
    ("os.rename", "tmp/buckets.json"),
    ("os.rename", "tmp/catalogue.arrow"),
    ("open", "vocabularies/title.txt"),
    ("os.rename", "tmp/content-files.json"),
    ("os.rename", "sequences-00002-of-00003.tfrecord"),
    ("os.rename", "items-00000-of-00001.tfrecord"),
    ("os.rename", "samples/events-validation.tfrecord"),
    ("os.rename", "statistics.json"),
    ("shutil.rmtree", "tmp"),
    ("os.rename", RECORD),
    ("os.rename", "steps/transform"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("doing", "path"), MOMENTS)
def test_a_kill_leaves_nothing_and_the_rerun_everything(
    doing: str, path: str, data: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    status, _ = transform(data, run, fault=killed_at, event=doing, ending=path)
    assert status == -9
    check_nothing(run, data)
    assert completed(data, run) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("path", ["steps/.transform.old", "steps/transform"])
def test_a_kill_while_an_output_is_replaced_leaves_the_old_one_or_none(
    path: str, data: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert completed(data, run) == undisturbed
    status, _ = transform(data, run, _LESS, fault=killed_at, event="os.rename", ending=path)
    assert status == -9
    if (run / "steps" / "transform").exists():
        assert finished(run) == undisturbed
    with pytest.raises(StepError, match="validate needs transform, which is missing or out of date"):
        run_steps(STEPS, load_config(None, [_BUCKETS, _LESS]), data, run, only="validate")
    assert completed(data, run, _LESS) == completed(data, tmp_path / "other", _LESS) != undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("file", ["tmp/events/", "tmp/buckets/interactions-", "/sequences-", "samples/events-train"])
def test_a_full_disk_is_told_and_leaves_nothing(
    file: str, data: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    status, messages = transform(data, run, fault=full_disk, path=file)
    assert status == 1
    told = messages[messages.rindex("error: ") :]
    assert "File too large: " in told
    assert file in told
    assert "was not written. Make room, then run the same command again" in told
    check_nothing(run, data)
    assert completed(data, run) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "name", "step"),
    [
        ("transform.sequences", "build_bucket", "Build buckets"),
        ("transform.catalogue", "encode_examples", "Write items"),
        ("transform.sequences", "sequence_columns", "Write sequences"),
    ],
)
def test_a_worker_that_raises_is_told_in_one_sentence(
    module: str, name: str, step: str, data: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    status, messages = transform(data, run, fault=raising, module=module, name=name)
    assert status == 1
    told = messages[messages.rindex("error: ") :].splitlines()
    assert len(told) == 2
    assert told[0].startswith("error: Transform ")
    assert step in told[0]
    assert told[0].endswith("ZeroDivisionError: a fault put in by a test")
    check_nothing(run, data)
    assert completed(data, run) == undisturbed


@pytest.mark.slow
def test_a_worker_process_that_is_killed_ends_the_run(
    data: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    run, log = tmp_path / "run", tmp_path / "run.log"
    workers = "transform.beam.options=[--direct_running_mode=multi_processing, --direct_num_workers=2]"
    process = start(log, "transform", "--data", data, "--out", run, "--set", _BUCKETS, "--set", workers)
    found: list[psutil.Process] = []
    while process.is_alive() and not found:
        children = psutil.Process(process.pid).children(recursive=True)
        found = [child for child in children if child.name().startswith("python") and is_worker(child)]
        time.sleep(0.05)
    found[0].kill()
    process.join(120)
    assert process.exitcode == 1
    assert "a worker process of Beam ended before its work was done" in log.read_text().splitlines()[-2]
    assert not psutil.pid_exists(found[0].pid)
    check_nothing(run, data)
    assert completed(data, run) == undisturbed


def is_worker(process: psutil.Process) -> bool:
    """Whether Beam started it to run its steps."""
    return any("sdk_worker_main" in argument for argument in process.cmdline())


@pytest.mark.slow
def test_a_damaged_row_group_stops_before_anything_is_written(
    data: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    run, copy = tmp_path / "run", tmp_path / "data"
    shutil.copytree(data, copy)
    file = copy / "events" / "part-001.parquet"
    content = bytearray(file.read_bytes())
    place = pq.read_metadata(file).row_group(1).column(0).data_page_offset
    content[place : place + 40] = b"\xff" * 40
    file.write_bytes(content)
    status, messages = transform(copy, run)
    assert status == 1
    assert f"error: {file}, row group 1: cannot be read" in messages
    check_nothing(run, copy)
    shutil.copy(data / "events" / "part-001.parquet", file)
    assert completed(copy, run) == undisturbed


# --- quick ones


def test_bad_rows_of_files_with_one_name_all_reach_the_dead_letters(tmp_path: Path) -> None:
    rows = [event("a", "x", 0), event("a", "y", 8 * DAY), event("b", "", 1), event("a", "z", 9 * DAY)]
    data = write_files(tmp_path / "data", rows, files=1, row_group_size=9)
    (data / "items").mkdir()
    write(tmp_path, "items", [{"item_id": "x"}, {"item_id": ""}])
    (tmp_path / "items.parquet").rename(data / "items" / "part-000.parquet")
    (tmp_path / "output").mkdir()
    run_transform(data, tmp_path / "output", config(max_bad_share=0.5))
    letters = [json.loads(file.read_text()) for file in (tmp_path / "output" / "dead_letter").iterdir()]
    assert sorted(letter["file"] for letter in letters) == [
        str(data / table / "part-000.parquet") for table in ("events", "items")
    ]


def csv(rows: int) -> bytes:
    lines = [f"u{place % 7},i{place * place % 101},view,{1_700_000_000 + place}" for place in range(rows)]
    return "\n".join(["user_id,item_id,type,timestamp", *lines, ""]).encode()


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def turned(content: bytes) -> bytes:
    """Bytes in the middle inverted."""
    middle = len(content) // 2
    return content[:middle] + bytes(byte ^ 0xFF for byte in content[middle : middle + 9]) + content[middle + 9 :]


@pytest.mark.parametrize(("ending", "compress"), [("gz", gzip.compress), ("bz2", bz2.compress)])
@pytest.mark.parametrize("damage", [cut, turned])
def test_a_damaged_archive_leaves_the_earlier_import_as_it_was(
    ending: str, compress: Callable[[bytes], bytes], damage: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    source, out = tmp_path / f"log.csv.{ending}", tmp_path / "out"
    source.write_bytes(compress(csv(10)))
    import_table([source], out, TableMap(), items=None, max_bad_share=0)
    before = files_of(tmp_path / "out")
    source.write_bytes(damage(compress(csv(5_000))))
    with pytest.raises(DataError, match=f"log.csv.{ending}: "):
        import_table([source], out, TableMap(), items=None, max_bad_share=0)
    assert files_of(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [source.name, "out"]
    source.write_bytes(compress(csv(5_000)))
    assert import_table([source], out, TableMap(), items=None, max_bad_share=0)["rows_kept"] == 5_000
