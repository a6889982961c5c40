"""A refresh beside a running server: what it answers before and after, and that it always answers."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline.config import Config
from pipeline.refresh import refresh
from serving.client import Filter, ListRequest, Recommendations, RecommenderClient
from serving.model_config import model_configs_for
from serving.options import ServerOptions
from serving.server import ModelServer
from tests.pipeline.test_refreshed_models import HISTORY, ROWS, nearest, refreshed_catalogue
from tests.pipeline.untrained_run import SMALL, make_run, product
from tests.transform.small_tables import write
from trainer.config import RankerConfig, RetrievalConfig
from trainer.retrieval import load_retrieval

# What the refreshed models answer is asserted quickly in test_refreshed_models.py; that no version which is taken up
# costs a request, of small models, in tests/conformance/test_versions.py and tests/serving/test_swaps.py.
pytestmark = pytest.mark.slow

OPTIONS = ServerOptions(file_system_poll_wait_seconds=0.2)
# Seconds that a request or a version may take on a machine that does much else; what is promised is asserted apart.
PATIENCE = 300


class Shopper:
    """Asks all the time; keeps the versions that answered, and every failure."""

    def __init__(self, target: str) -> None:
        self.versions: set[int] = set()
        self.failures: list[Exception] = []
        self._target = target
        self._stop = threading.Event()

    @contextmanager
    def asking(self) -> Iterator[None]:
        thread = threading.Thread(target=self._ask)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _ask(self) -> None:
        with RecommenderClient(self._target, timeout=PATIENCE) as client:
            while not self._stop.is_set():
                try:
                    self.versions.add(client.recommend(HISTORY, k=5).version)
                except Exception as error:
                    self.failures.append(error)
                time.sleep(0.02)


@dataclass(frozen=True)
class Live:
    """A refresh, as a client saw it."""

    run: Path
    report: dict[str, Any]
    shopper: Shopper
    seconds: float  # from the start of the refresh to the first answer of the new version
    similar: dict[str, Recommendations]  # of the new products
    recommended: Recommendations  # from HISTORY
    new_pots: Recommendations  # from HISTORY, of the category and the prices of the new products
    page: dict[str, Recommendations]  # from HISTORY
    embedded: list[tuple[float, ...]]  # HISTORY before and after


def go_live(folder: Path, products: int, shoppers: int, rows: list[dict[str, Any]], config: Config = SMALL) -> Live:
    """Serves a run, refreshes it with `rows` while a client asks, and asks about the new ones."""
    run = make_run(folder, products, shoppers, config)
    table = write(folder / "new", "items", rows)
    with ModelServer(model_configs_for(run / "export"), port=0, options=OPTIONS) as server:
        server.wait_until_available(PATIENCE)
        shopper = Shopper(server.address)
        with RecommenderClient(server.address, timeout=PATIENCE) as client:
            before = client.embed_user(HISTORY)
            with shopper.asking():
                started = time.monotonic()
                report = refresh(table, run)
                while 2 not in shopper.versions:
                    assert time.monotonic() < started + PATIENCE, shopper.failures
                    time.sleep(0.05)
                seconds = time.monotonic() - started
            similar = {
                row["item_id"]: client.similar_items(row["item_id"], k=config.export.k)
                for row in rows
                if row["item_id"].startswith("new-")
            }
            recommended = client.recommend(HISTORY, k=config.export.k)
            new_pots = client.recommend(HISTORY, k=6, filter=Filter(["Home > pot"], price_min=1.99, price_max=3.0))
            page = client.recommend_lists(HISTORY, [ListRequest("Pots", "Home > pot"), ListRequest("Home", "Home")])
            embedded = [before, client.embed_user(HISTORY)]
    return Live(run, report, shopper, seconds, similar, recommended, new_pots, page, embedded)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Live:
    return go_live(tmp_path_factory.mktemp("live"), 24, 12, ROWS)


def test_no_request_fails_while_the_new_version_is_taken_up(live: Live) -> None:
    assert live.shopper.failures == []
    assert live.shopper.versions == {1, 2}


def test_new_products_are_found_by_their_nearest_neighbours(live: Live) -> None:
    for item_id, answer in live.similar.items():
        assert answer.version == 2
        assert set(answer.item_ids) == nearest(live.run, item_id, 6)


def test_filters_know_the_new_products(live: Live) -> None:
    # Products 100, 101 and 102 are a pot, a lamp and a chair for 2.00, 2.01 and 2.02; the old ones cost up to 1.23.
    assert live.new_pots.item_ids == ("new-0",)
    assert live.new_pots.version == 2
    # Every fifth old product is a pot.
    assert set(live.page["Pots"].item_ids) == {"new-0", *(f"old-{number}" for number in (0, 5, 10, 15, 20))}
    assert len(live.page["Home"].item_ids) == 20
    assert not set(live.page["Home"].item_ids) & {"old-3", *live.page["Pots"].item_ids}


def test_a_withdrawn_product_is_read_in_histories_and_not_recommended(live: Live) -> None:
    assert live.embedded[0] == live.embedded[1]
    answers = [live.recommended, *live.similar.values()]
    assert all("old-3" not in answer.item_ids for answer in answers)


def test_a_thousand_products_are_live_within_half_a_minute(tmp_path: Path) -> None:
    config = Config(
        transform=SMALL.transform, retrieval=RetrievalConfig(history_length=50), ranker=RankerConfig(history_length=50)
    )
    rows = [product(f"new-{number}", 10_000 + number) for number in range(1_000)]
    live = go_live(tmp_path, 5_000, 1_000, rows, config)
    assert live.shopper.failures == []
    assert live.seconds < 30
    catalogue = refreshed_catalogue(live.run)
    model = load_retrieval(live.run / "steps" / "train-retrieval", catalogue)
    vectors = model.candidate_embeddings(tf.range(catalogue.size)).numpy()
    row = {item_id: place for place, item_id in enumerate(catalogue.item_ids)}
    for item_id, answer in live.similar.items():
        scores = vectors @ vectors[row[item_id]]
        scores[[0, 1, row[item_id]]] = -np.inf
        # The hundredth nearest and what ties with it.
        assert len(answer.item_ids) == 100
        assert scores[[row[found] for found in answer.item_ids]].min() >= np.sort(scores)[-100] - 1e-5
