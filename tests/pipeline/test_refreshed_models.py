"""What the models of a refreshed run answer, beside those that they replace."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline.refresh import refresh
from tests.pipeline.untrained_run import SMALL, make_run, product
from tests.trainer.exported import ServedModel
from tests.transform.small_tables import write
from trainer.data import Catalogue, load_catalogue
from trainer.errors import ExportError
from trainer.retrieval import load_retrieval
from transform.tables import FIRST

HISTORY = ["old-1", "old-3", "old-2"]
NEW = ["new-0", "new-1", "new-2"]
# Nothing here asks for complementary products, which are a signature and an index more.
CONFIG = replace(SMALL, export=replace(SMALL.export, complementary=False))
# Of 24 products one is withdrawn, one changed, one sent again as it is; three are new, one cannot be read.
ROWS: list[dict[str, Any]] = [
    *(product(item_id, 100 + number) for number, item_id in enumerate(NEW)),
    product("old-3", 3) | {"available": False},
    product("old-4", 4) | {"title": "blue rug", "price": 900.0},
    product("old-5", 5),
    {"item_id": "bad", "price": -1.0},
]


def refreshed_catalogue(run: Path) -> Catalogue:
    return load_catalogue(run / "steps" / "refresh" / "1" / "catalogue")


def nearest(run: Path, item_id: str, k: int) -> set[str]:
    """The products nearest to one, worked out from the model itself."""
    catalogue = refreshed_catalogue(run)
    model = load_retrieval(run / "steps" / "train-retrieval", catalogue)
    vectors = model.candidate_embeddings(tf.range(catalogue.size)).numpy()
    scores = vectors @ vectors[list(catalogue.item_ids).index(item_id)]
    scores[~catalogue.available | (catalogue.item_ids == item_id)] = -np.inf
    return set(catalogue.item_ids[np.argsort(-scores)[:k]])


@dataclass(frozen=True)
class Run:
    """A refreshed run and its two recommenders."""

    folder: Path
    report: dict[str, Any]
    before: ServedModel
    after: ServedModel

    @property
    def catalogue(self) -> Catalogue:
        return refreshed_catalogue(self.folder)

    def exported(self, version: int, variable: str) -> np.ndarray:
        """A variable of a published recommender."""
        directory = self.folder / "export" / "recommender" / str(version) / "variables" / "variables"
        return tf.train.load_variable(str(directory), f"{variable}/.ATTRIBUTES/VARIABLE_VALUE")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("refreshed")
    made = make_run(folder, 24, 12, CONFIG)
    report = refresh(write(folder / "new", "items", ROWS), made)
    models = made / "export" / "recommender"
    with ServedModel(models / "1") as before, ServedModel(models / "2") as after:
        yield Run(made, report, before, after)


def answered(model: ServedModel, signature: str, **inputs: object) -> list[str]:
    """Products of the first line of an answer, without padding."""
    return [item.decode() for item in model(signature, **inputs)["item_ids"][0].ravel() if item]


def padded(model: ServedModel, signature: str, name: str, values: list[str]) -> list[list[str]]:
    """One line of an input, as wide as the signature has it."""
    width = model.signatures[signature].inputs[name].tensor_shape.dim[1].size
    return [values + [""] * (width - len(values))]


def history(model: ServedModel) -> list[list[str]]:
    return padded(model, "embed_user", "history_item_ids", HISTORY)


def test_what_became_of_the_products_is_told(run: Run) -> None:
    names = ("version", "new", "changed", "unchanged", "withdrawn", "recommendable")
    # 24 products, three more, one of them withdrawn.
    assert [run.report[name] for name in names] == [2, 3, 1, 1, 1, 26]
    assert sum(run.report["rejected"].values()) == 1


def test_new_products_are_found_by_their_nearest_neighbours(run: Run) -> None:
    for item_id in NEW:
        assert set(answered(run.after, "similar_items", item_ids=[item_id])) == nearest(run.folder, item_id, 6)


def test_filters_know_the_new_products(run: Run) -> None:
    model = run.after
    pots = padded(model, "recommend_filtered", "filter_categories", ["Home > pot"])
    prices = {"filter_price_min": np.float32([1.99]), "filter_price_max": np.float32([3.0])}
    # Products 100, 101 and 102 are a pot, a lamp and a chair for 2.00, 2.01 and 2.02; the old ones cost up to 1.23.
    found = answered(model, "recommend_filtered", history_item_ids=history(model), filter_categories=pots, **prices)
    assert found == ["new-0"]


def test_a_page_knows_the_new_products(run: Run) -> None:
    model = run.after
    page = model(
        "recommend_lists",
        history_item_ids=history(model),
        list_names=padded(model, "recommend_lists", "list_names", ["Pots", "Home"]),
        list_categories=padded(model, "recommend_lists", "list_categories", ["Home > pot", "Home"]),
    )
    pots, home = ({item.decode() for item in line if item} for line in page["item_ids"][0, :2])
    # Every fifth old product is a pot.
    assert pots == {"new-0", *(f"old-{number}" for number in (0, 5, 10, 15, 20))}
    assert len(home) == 20
    assert not home & {"old-3", *pots}


def test_a_withdrawn_product_is_read_in_histories_and_not_recommended(run: Run) -> None:
    embedded = [model("embed_user", history_item_ids=history(model))["embedding"] for model in (run.before, run.after)]
    np.testing.assert_array_equal(*embedded)
    answers = [answered(run.after, "similar_items", item_ids=[item_id]) for item_id in NEW]
    answers.append(answered(run.after, "recommend", history_item_ids=history(run.after)))
    assert all("old-3" not in answer for answer in answers)
    assert not run.exported(2, "recommendable")[list(run.catalogue.item_ids).index("old-3")]


@pytest.mark.parametrize("table", ["retrieval_items", "ranker_items"])
def test_vectors_of_other_products_are_the_same_to_the_last_bit(run: Run, table: str) -> None:
    before, after = run.exported(1, table), run.exported(2, table)
    changed = list(run.catalogue.item_ids).index("old-4")
    same = (before == after[: len(before)]).all(axis=1)
    assert np.flatnonzero(~same).tolist() == [changed]
    assert after.shape == (FIRST + 27, 8)


def test_what_is_popular_stays_popular(run: Run) -> None:
    before, after = run.exported(1, "prior/scores"), run.exported(2, "prior/scores")
    np.testing.assert_array_equal(after[: len(before)], before)
    assert after[len(before) :].max() <= before[FIRST:].min()


def test_a_shop_that_withdraws_everything_is_refused(run: Run, tmp_path: Path) -> None:
    everything = [{"item_id": str(item_id), "available": False} for item_id in run.catalogue.item_ids[FIRST:]]
    with pytest.raises(ExportError, match="none of the 27 products is available"):
        refresh(write(tmp_path, "items", everything), run.folder)
