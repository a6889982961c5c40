"""Caps, buckets and crosses from the shop's tables to the exported models: the same ids for the same raw values."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf

from pipeline.chain import STEPS
from pipeline.config import Config
from pipeline.runner import run_steps, step_directory
from tests.pipeline.untrained_run import SMALL, STAND_INS, product
from tests.trainer.exported import ServedModel
from tests.transform.small_tables import START, config, event, write
from trainer.config import RetrievalConfig, TrainingConfig
from trainer.data import Catalogue, load_catalogue
from trainer.retrieval import RetrievalModel, load_retrieval
from transform.clock import DAY
from transform.feature_schema import Vocabulary, clock_features, id_count
from transform.tables import EVENT_TYPES, FIRST

pytestmark = pytest.mark.slow

PRODUCTS, SHOPPERS, LENGTH = 40, 24, 8
CONFIG: Config = replace(
    SMALL,
    transform=config(
        max_values={"brand": 3, "category": 4, "brand_x_category": 6, "region": 2},
        oov_buckets={"brand": 4, "category": 3, "title": 2, "brand_x_category": 5, "device": 2, "region": 3},
        price_buckets=4,
        crosses=[["brand", "category"], ["category", "price_bucket"]],
        context_features=["device", "region", "hour", "weekday"],
    ),
    retrieval=RetrievalConfig(dim=8, history_length=LENGTH, heads=2, training=TrainingConfig(epochs=1)),
)
# What the chain does without: the retrieval is trained.
REPLACED = {name: run for name, run in STAND_INS.items() if name != "train-retrieval"}


def catalogue_rows() -> list[dict[str, object]]:
    """Some lack a value that others have."""
    rows = [product(f"p{number}", number) for number in range(PRODUCTS)]
    for number, column in ((0, "brand"), (1, "price"), (2, "category"), (3, "title")):
        rows[number][column] = None
    rows[4]["brand"] = ""
    return rows


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("features")
    write(folder / "data", "items", catalogue_rows())
    events = [
        event(
            f"shopper-{shopper}",
            f"p{(shopper * 7 + day * 3) % PRODUCTS}",
            day * DAY + 3_600 * shopper,
            device=("mobile", "desktop")[shopper % 2],
            region=f"region {shopper % 5}",
        )
        for shopper in range(SHOPPERS)
        for day in range(10)
    ]
    write(folder / "data", "events", events)
    steps = [replace(step, run=REPLACED.get(step.name, step.run)) for step in STEPS]
    run_steps(steps, CONFIG, folder / "data", folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def catalogue(run: Path) -> Catalogue:
    return load_catalogue(step_directory(run, "embed-content"))


@pytest.fixture(scope="module")
def retrieval(run: Path, catalogue: Catalogue) -> RetrievalModel:
    return load_retrieval(step_directory(run, "train-retrieval"), catalogue)


def raw_content() -> dict[str, list[object]]:
    """Inputs of `item_encoder`, for all products in the order of their numbers."""
    rows = catalogue_rows()
    texts = {name: [row[name] or "" for row in rows] for name in ("title", "category", "brand")}
    filled = {"description": [""] * len(rows), "attributes": [[""]] * len(rows), "image": [b""] * len(rows)}
    return {**texts, **filled, "price": [row["price"] or np.nan for row in rows]}


def rows_of(catalogue: Catalogue) -> tf.Tensor:
    """Catalogue rows of all products in the order of their numbers."""
    row = {item_id: row for row, item_id in enumerate(catalogue.item_ids)}
    return tf.constant([row[f"p{number}"] for number in range(PRODUCTS)], tf.int32)


def test_everything_that_was_asked_for_is_in_the_schema_and_used(catalogue: Catalogue) -> None:
    features = {feature.name: feature for feature in catalogue.schema.item}
    assert {"price_bucket", "brand_x_category", "category_x_price_bucket"} <= set(features)
    assert clock_features(catalogue.schema) == ("hour", "weekday")
    for name in ("brand", "category", "brand_x_category"):
        ids = catalogue.features[name]
        assert ids.max() >= features[name].vocabulary_size, f"no product has a bucket of {name}"
        assert ids.max() < id_count(features[name])
        assert not (ids == 1).any()
    assert set(np.unique(catalogue.features["price_bucket"][FIRST:])) == {0, 2, 3, 4, 5}


def test_raw_content_gives_the_vector_that_the_index_holds(
    run: Path, catalogue: Catalogue, retrieval: RetrievalModel
) -> None:
    rows = rows_of(catalogue)
    served = ServedModel(step_directory(run, "export") / "item_encoder")
    item_ids = [f"p{number}" for number in range(PRODUCTS)]
    known = served("serving_default", **raw_content(), item_id=item_ids)["embedding"]
    np.testing.assert_allclose(known, retrieval.candidate_embeddings(rows), atol=1e-6)
    stranger = served("serving_default", **raw_content(), item_id=[""] * PRODUCTS)["embedding"]
    features = retrieval.products.features(rows)
    by_content = retrieval.item_encoder.encode(features, tf.ones([PRODUCTS], tf.int32))
    np.testing.assert_allclose(stranger, retrieval.project_items(by_content), atol=1e-6)


def test_requests_are_numbered_as_the_training_was(run: Path, catalogue: Catalogue, retrieval: RetrievalModel) -> None:
    """Known values, values beyond the cap, values never seen, none at all; a Monday and a Tuesday."""
    devices, regions = ["mobile", "desktop", "watch", ""], ["region 0", "region 4", "the moon", ""]
    times = START + DAY * np.array([0, 1, 7, 8]) + 3_600
    size = len(devices)
    history = np.full([size, LENGTH], "", dtype=object)
    history[:, -1] = "p7"
    row = int(np.flatnonzero(catalogue.item_ids == "p7")[0])
    served = ServedModel(step_directory(run, "export") / "recommender")
    given = {name: tf.make_ndarray(value) for name, value in served.signatures["embed_user"].defaults.items()}
    inputs = {name: np.repeat(value, size, axis=0) for name, value in given.items()}
    inputs |= {"history_item_ids": history, "context_device": devices, "context_region": regions}
    answer = served("embed_user", **inputs | {"context_timestamp": times})["embedding"]
    folder = step_directory(run, "transform")
    known = {feature.name: Vocabulary.of(folder, feature) for feature in catalogue.schema.context}
    ids = {name: known[name].ids(pa.array(values)) for name, values in (("device", devices), ("region", regions))}
    assert ids["device"][2] >= FIRST + len(known["device"].words)
    assert ids["region"][1] >= FIRST + len(known["region"].words)
    batch = {
        "history_rows": tf.constant([[0] * (LENGTH - 1) + [row]] * size, tf.int32),
        # All events of the shop are views.
        "history_types": tf.constant([[0] * (LENGTH - 1) + [EVENT_TYPES["view"]]] * size, tf.int32),
        "history_timestamps": tf.zeros([size, LENGTH], tf.int64),
        "context_timestamp": tf.constant(times, tf.int64),
        "context_device": tf.constant(ids["device"], tf.int32),
        "context_region": tf.constant(ids["region"], tf.int32),
    }
    np.testing.assert_allclose(answer, retrieval.query_embeddings(batch), atol=1e-5)


_ASK = """
import sys
import numpy as np
from tests.pipeline.test_feature_transformations import raw_content
from tests.trainer.exported import ServedModel
from pathlib import Path
raw = raw_content()
served = ServedModel(Path(sys.argv[1]))
np.save(sys.argv[2], served("serving_default", **raw, item_id=[""] * len(raw["title"]))["embedding"])
"""


def test_a_new_process_gives_the_same_answer_without_anything_upstream(run: Path, tmp_path: Path) -> None:
    model = tmp_path / "item_encoder"
    (step_directory(run, "export") / "item_encoder").rename(model)
    try:
        file = str(tmp_path / "embedding.npy")
        command = [sys.executable, "-c", _ASK, str(model), file]
        subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parents[2])
        here = ServedModel(model)("serving_default", **raw_content(), item_id=[""] * PRODUCTS)["embedding"]
    finally:
        model.rename(step_directory(run, "export") / "item_encoder")
    np.testing.assert_array_equal(np.load(file), here)
