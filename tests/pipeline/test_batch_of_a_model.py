"""Lists of a whole exported model, in a job: they are the server's, and a killed job is completed by the next."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.batch_recommend import BatchOptions, batch_recommend
from pipeline.shopper_histories import shopper_history
from serving.client import Recommendations, RecommenderClient
from serving.client_query import Context
from serving.model_config import model_configs_for
from serving.options import ServerOptions
from serving.servable import Servable, session_config
from serving.server import ModelServer
from tests.pipeline.batch_jobs import (
    SHOPPERS,
    K,
    asked,
    assert_every_shopper_has_the_list_of_the_server,
    assert_same,
    command,
    lists,
    whole_job,
)
from tests.pipeline.untrained_run import make_run

pytestmark = pytest.mark.slow

PRODUCTS = 30


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("batch"), PRODUCTS, SHOPPERS)


@pytest.fixture(scope="module")
def client(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RecommenderClient]:
    """Of a running server of the same model, without its warm-up, which takes longer than all that is asked here."""
    models = tmp_path_factory.mktemp("models")
    without = shutil.ignore_patterns("assets.extra")
    shutil.copytree(run / "export" / "recommender", models / "recommender", ignore=without)
    with ModelServer(model_configs_for(models), port=0) as server:
        server.wait_until_available(600)
        with RecommenderClient(server.address, timeout=60) as connected:
            yield connected


@pytest.fixture(scope="module")
def whole(run: Path) -> BatchOptions:
    return whole_job(run)


def test_every_shopper_gets_what_the_server_answers(client: RecommenderClient, whole: BatchOptions) -> None:
    assert_every_shopper_has_the_list_of_the_server(whole, client)


def test_lists_are_those_of_the_servable_one_by_one(run: Path, whole: BatchOptions) -> None:
    servable = Servable(run / "export" / "recommender" / "1", session_config(ServerOptions()))
    signature = servable.signature("recommend")
    try:
        for user, answer in lists(whole.out).items():
            history = shopper_history(run, user)
            newest = slice(-8, None)
            inputs = {
                "history_item_ids": np.array([history.item_ids[newest]], object),
                "history_event_types": np.array([history.event_types[newest]], object),
                "history_timestamps": np.array([history.timestamps[newest]], np.int64),
            }
            outputs = servable.run(signature, inputs, ["item_ids", "scores"])
            ids = tuple(item.decode() for item in outputs["item_ids"][0])
            assert_same(answer, Recommendations(ids, tuple(outputs["scores"][0].tolist()), 1))
    finally:
        servable.close()


def test_the_time_that_lists_are_for_is_sent(
    run: Path, client: RecommenderClient, whole: BatchOptions, tmp_path: Path
) -> None:
    later = 1_704_067_200 + 10**7
    batch_recommend(replace(whole, timestamp=later, out=tmp_path / "lists"))
    answer = lists(tmp_path / "lists")["shopper-3"]
    assert_same(answer, asked(client, run, "shopper-3", K, Context(timestamp=later)))
    assert answer.scores != pytest.approx(lists(whole.out)["shopper-3"].scores, abs=1e-3)


@pytest.mark.parametrize("kind", ["similar_items", "complementary_items"])
def test_every_available_product_gets_what_the_server_answers_beside_it(
    kind: str, client: RecommenderClient, whole: BatchOptions, tmp_path: Path
) -> None:
    told = batch_recommend(replace(whole, kind=kind, out=tmp_path / "beside"))
    assert told["products"] == PRODUCTS
    found = lists(tmp_path / "beside")
    assert sorted(found) == sorted(f"old-{number}" for number in range(PRODUCTS))
    for item, answer in found.items():
        assert_same(answer, getattr(client, kind)(item, K))


def test_a_killed_job_is_completed_by_the_next(whole: BatchOptions, tmp_path: Path) -> None:
    options = replace(whole, out=tmp_path / "lists", shard_size=1, batch_size=1)
    job = subprocess.Popen(command(options, "--runner=FnApiRunner"), stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 300
    while not list(options.out.glob("part-*-of-00023.parquet")):
        assert job.poll() is None, job.stderr and job.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    assert not (options.out / "_SUCCESS").exists()
    done = len(list(options.out.glob("part-*.parquet")))
    assert 0 < done < SHOPPERS
    again = subprocess.run(command(options), capture_output=True, text=True, check=True, timeout=300)
    assert (
        f"23 shoppers, 0 new visitors, 0 unknown users, 0 repeated users, 0 empty histories; 23 shards, {23 - done}"
        in (again.stdout)
    )
    assert not list(options.out.glob("*.partial"))
    expected = lists(whole.out)
    for user, answer in lists(options.out).items():
        assert_same(answer, expected.pop(user))
    assert not expected


def test_processes_of_another_running_mode_write_the_same(whole: BatchOptions, tmp_path: Path) -> None:
    options = replace(whole, out=tmp_path / "lists")
    given = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
    subprocess.run(
        command(options, *(f"--beam-option={one}" for one in given)), capture_output=True, check=True, timeout=600
    )
    assert {path.name: path.read_bytes() for path in options.out.glob("part-*")} == {
        path.name: path.read_bytes() for path in whole.out.glob("part-*")
    }
