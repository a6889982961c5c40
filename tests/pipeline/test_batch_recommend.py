"""Lists for all shoppers in one job, whatever format, shards and runner; by a model whose answers anyone can see."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from pipeline.batch_recommend import BatchOptions, Kind, batch_recommend
from pipeline.chain import STEPS
from pipeline.config import Config
from pipeline.runner import StepError, run_steps
from pipeline.shopper_histories import shopper_history
from serving.client import RecommenderClient
from serving.client_query import Context
from serving.model_config import model_configs_for
from serving.server import ModelServer
from tests.pipeline.batch_jobs import (
    SHOPPERS,
    K,
    asked,
    assert_every_shopper_has_the_list_of_the_server,
    assert_same,
    lists,
    whole_job,
)
from tests.serving.models import ITEMS, UNAVAILABLE, TinyRecommender, publish
from tests.transform.small_tables import config, event, examples, write
from transform.clock import DAY
from transform.config import BeamConfig

ONE_THREAD = BeamConfig()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Transformed data of 23 shoppers with ten events each, and a published model of the tests."""
    folder = tmp_path_factory.mktemp("batch")
    events = [
        event(
            f"shopper-{shopper}",
            f"sku-{(shopper * 7 + day * 5) % 6 + 1}",
            day * DAY + shopper,
            "purchase" if shopper % 2 else "view",
        )
        for shopper in range(SHOPPERS)
        for day in range(10)
    ]
    items = [{"item_id": item, "available": item != UNAVAILABLE} for item in ITEMS]
    data = write(write(folder / "data", "events", events), "items", items)
    run_steps(STEPS, Config(transform=config()), data, folder / "run", only="transform")
    publish(TinyRecommender().save(folder / "saved"), folder / "run" / "export" / "recommender", 1)
    return folder / "run"


@pytest.fixture(scope="module")
def client(run: Path) -> Iterator[RecommenderClient]:
    """Of a running server of the same model."""
    with ModelServer(model_configs_for(run / "export"), port=0) as server:
        server.wait_until_available(600)
        with RecommenderClient(server.address, timeout=60) as connected:
            yield connected


@pytest.fixture(scope="module")
def whole(run: Path) -> BatchOptions:
    return whole_job(run)


def test_every_shopper_gets_what_the_server_answers(client: RecommenderClient, whole: BatchOptions) -> None:
    assert_every_shopper_has_the_list_of_the_server(whole, client)


def test_the_folder_says_what_is_in_it(whole: BatchOptions) -> None:
    assert sorted(path.name for path in whole.out.iterdir() if not path.name.startswith(".")) == [
        "_MANIFEST.json",
        "_SUCCESS",
        *(f"part-{number:05d}-of-00005.parquet" for number in range(5)),
    ]
    told = json.loads((whole.out / "_SUCCESS").read_text())
    counts = {"shoppers": SHOPPERS, "new_visitors": 0, "unknown_users": 0, "empty_histories": 0, "shards": 5}
    assert counts.items() <= told.items()
    assert [pq.read_metadata(whole.out / f"part-{number:05d}-of-00005.parquet").num_rows for number in range(5)] == [
        *[5] * 4,
        3,
    ]


def test_only_what_is_missing_is_done_again(whole: BatchOptions, tmp_path: Path) -> None:
    options = replace(whole, out=tmp_path / "lists")
    shutil.copytree(whole.out, options.out)
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in options.out.glob("part-*")}
    lost = options.out / "part-00002-of-00005.parquet"
    lost.unlink()
    (options.out / "part-00002-of-00005.parquet.0123.partial").write_bytes(b"half")
    (options.out / "_SUCCESS").unlink()
    assert batch_recommend(options)["shards_of_this_run"] == 1
    after = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in options.out.glob("part-*")}
    assert after.keys() == before.keys()
    assert after[lost.name][1] == before[lost.name][1]
    assert {name: of for name, of in after.items() if name != lost.name} == {
        name: of for name, of in before.items() if name != lost.name
    }
    assert batch_recommend(options)["shards_of_this_run"] == 0


def test_what_stops_a_worker_is_told_in_one_sentence(whole: BatchOptions, tmp_path: Path) -> None:
    options = replace(whole, out=tmp_path / "lists")
    shutil.copytree(whole.out, options.out)
    blocked = options.out / "part-00002-of-00005.parquet"
    blocked.unlink()
    blocked.mkdir()
    asked_for = "Batch job, asking recommend for 1 of 5 shards"
    with pytest.raises(RuntimeError, match=rf"^{asked_for}: in 'Write': .*{blocked.name}'.*Is a directory.*$"):
        batch_recommend(options)
    assert not (options.out / "_SUCCESS").exists()
    blocked.rmdir()
    batch_recommend(options)
    assert lists(options.out) == lists(whole.out)


def test_a_folder_made_for_something_else_is_refused_unless_it_is_restarted(
    whole: BatchOptions, tmp_path: Path
) -> None:
    options = replace(whole, out=tmp_path / "lists", k=2, shard_size=12)
    shutil.copytree(whole.out, options.out)
    with pytest.raises(StepError, match=r"5 shards .* k was 6, is 2; shard size was 5, is 12\. .* --restart"):
        batch_recommend(options)
    assert len(lists(options.out)) == SHOPPERS
    batch_recommend(replace(options, restart=True))
    found = lists(options.out)
    assert len(list(options.out.glob("part-*"))) == 2
    assert {user: answer.item_ids for user, answer in found.items()} == {
        user: answer.item_ids[:2] for user, answer in lists(whole.out).items()
    }


def test_another_published_version_is_something_else(run: Path, whole: BatchOptions, tmp_path: Path) -> None:
    other = tmp_path / "run"
    shutil.copytree(run, other)
    shutil.copytree(other / "export" / "recommender" / "1", other / "export" / "recommender" / "2")
    shutil.copytree(whole.out, tmp_path / "lists")
    with pytest.raises(StepError, match=r"model was recommender version 1, is recommender version 2\."):
        batch_recommend(replace(whole, run=other, out=tmp_path / "lists"))


def test_a_list_of_shoppers_and_those_that_the_data_do_not_have(
    client: RecommenderClient, whole: BatchOptions, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    users = tmp_path / "users.txt"
    users.write_text("shopper-7\nnobody\nshopper-2\n\nshopper-7\nnobody else\n")
    options = replace(whole, users=users, out=tmp_path / "known")
    told = batch_recommend(options)
    assert (told["shoppers"], told["new_visitors"], told["unknown_users"], told["repeated_users"]) == (2, 0, 2, 1)
    assert "2 of the shoppers asked for are not among the 23 of the data, the first nobody" in caplog.text
    assert (options.out / "_UNKNOWN_USERS").read_text() == "nobody\nnobody else\n"
    everybody = lists(whole.out)
    for user, answer in lists(options.out).items():
        assert_same(answer, everybody[user])

    options = replace(options, unknown_as_new=True, out=tmp_path / "all", shard_size=3)
    told = batch_recommend(options)
    assert (told["shoppers"], told["new_visitors"], told["empty_histories"], told["shards"]) == (2, 2, 2, 2)
    found = lists(options.out)
    assert sorted(found) == ["nobody", "nobody else", "shopper-2", "shopper-7"]
    assert_same(found["shopper-2"], everybody["shopper-2"])
    for visitor in ("nobody", "nobody else"):
        assert_same(found[visitor], client.recommend([], K))


def test_the_time_that_lists_are_for_is_sent(
    run: Path, client: RecommenderClient, whole: BatchOptions, tmp_path: Path
) -> None:
    users = tmp_path / "users.parquet"
    pq.write_table(pa.table({"user_id": ["shopper-3"], "name": ["Ann"]}), users)
    later = shopper_history(run, "shopper-3").timestamps[-1] + 10**7
    batch_recommend(replace(whole, users=users, timestamp=later, out=tmp_path / "lists"))
    answer = lists(tmp_path / "lists")["shopper-3"]
    assert_same(answer, asked(client, run, "shopper-3", K, Context(timestamp=later)))
    # Its newest product stands in the fifth place of the history, was purchased, and is 10,000 · 1,000 s old.
    assert answer.scores[0] == 5 + 100 + 10_000


@pytest.mark.parametrize(("kind", "first"), [("similar_items", "sku-2"), ("complementary_items", "sku-6")])
def test_every_available_product_gets_what_the_server_answers_beside_it(
    kind: Kind, first: str, client: RecommenderClient, whole: BatchOptions, tmp_path: Path
) -> None:
    told = batch_recommend(replace(whole, kind=kind, out=tmp_path / "beside"))
    assert told["products"] == len(ITEMS) - 1
    found = lists(tmp_path / "beside")
    assert sorted(found) == [item for item in ITEMS if item != UNAVAILABLE]
    assert found["sku-1"].item_ids[0] == first
    for item, answer in found.items():
        assert_same(answer, getattr(client, kind)(item, K))


def test_formats_hold_the_same_lists_and_the_suffix_chooses(whole: BatchOptions, tmp_path: Path) -> None:
    expected = ds.dataset(whole.out, format="parquet").to_table().to_pylist()
    batch_recommend(replace(whole, out=tmp_path / "lists.jsonl", beam=ONE_THREAD))
    lines = [
        line
        for number in range(5)
        for line in (tmp_path / "lists.jsonl" / f"part-{number:05d}-of-00005.jsonl").read_text().splitlines()
    ]
    assert [json.loads(line) for line in lines] == expected
    batch_recommend(replace(whole, out=tmp_path / "lists", format="tfrecord"))
    found = examples(tmp_path / "lists", "part-*.tfrecord")
    assert [
        {
            "user_id": one["user_id"][0].decode(),
            "item_ids": [item.decode() for item in one["item_ids"]],
            "scores": one["scores"],
        }
        for one in found
    ] == expected


def test_what_cannot_be_done_is_said_before_anything_is_written(run: Path, whole: BatchOptions, tmp_path: Path) -> None:
    options = replace(whole, out=tmp_path / "lists")
    with pytest.raises(StepError, match="k must be at most 6, which the model was exported with; received 7"):
        batch_recommend(replace(options, k=7))
    with pytest.raises(StepError, match=r"no published model in .*bestseller.*: run `tandem publish"):
        batch_recommend(replace(options, model="bestseller"))
    with pytest.raises(StepError, match=r"is named as jsonl, --format says parquet: leave one out"):
        batch_recommend(replace(options, out=tmp_path / "lists.jsonl", format="parquet"))
    with pytest.raises(StepError, match="batch_size must be at least 1, received 0"):
        replace(options, batch_size=0)
    with pytest.raises(StepError, match="--users names shoppers; lists beside products are made for every"):
        batch_recommend(replace(options, kind="similar_items", users=tmp_path / "users.txt"))
    assert not list(tmp_path.iterdir())
    with pytest.raises(StepError, match=r"holds files that no batch job wrote \(config.json\): give another --out"):
        batch_recommend(replace(options, out=run))
