"""A run of the real chain but for its trainings: models that have learned nothing stand in for trained ones."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import tensorflow as tf
import tf_keras

from pipeline.chain import STEPS
from pipeline.config import Config
from pipeline.publish import publish
from pipeline.runner import Place, run_steps
from tests.transform.small_tables import config, event, write
from trainer.candidate_head import CandidateHead, save_head
from trainer.config import ExportConfig, RankerConfig, RetrievalConfig
from trainer.data import load_catalogue
from trainer.model_files import save_model
from trainer.ranker import Ranker
from trainer.retrieval import RetrievalModel
from transform.clock import DAY

COLOURS, KINDS = ("red", "green", "blue"), ("pot", "lamp", "chair", "rug", "clock")
SMALL = Config(
    transform=config(),
    retrieval=RetrievalConfig(dim=8, history_length=8, heads=2),
    ranker=RankerConfig(dim=8, history_length=8, heads=2, blocks=1),
    export=ExportConfig(k=6, candidates=10, exclude_length=4, explained_candidates=3, recall_queries=20),
)


def product(item_id: str, number: int) -> dict[str, Any]:
    """A product with words that others have too and a price of its own."""
    colour, kind = COLOURS[number % 3], KINDS[number % 5]
    return {
        "item_id": item_id,
        "title": f"{colour} {kind}",
        "category": f"Home > {kind}",
        "brand": f"brand {number % 7}",
        "price": 1.0 + 0.01 * number,
        "available": True,
    }


def make_run(folder: Path, products: int, shoppers: int, config: Config = SMALL) -> Path:
    """A published run; products are old-0, old-1 …; each shopper meets ten of them in ten days."""
    data, run = folder / "data", folder / "run"
    write(data, "items", [product(f"old-{number}", number) for number in range(products)])
    events = [
        event(f"shopper-{shopper}", f"old-{(shopper * 7 + day * 3) % products}", day * DAY + shopper)
        for shopper in range(shoppers)
        for day in range(10)
    ]
    write(data, "events", events)
    steps = [replace(step, run=STAND_INS.get(step.name, step.run)) for step in STEPS]
    run_steps(steps, config, data, run)
    publish(run)
    return run


def _untrained(kind: str, make: Callable[..., tf_keras.Model]) -> Callable[[Config, Place], None]:
    def save(config: Config, place: Place) -> None:
        catalogue = load_catalogue(place.step("transform"))
        tf_keras.utils.set_random_seed(3)
        settings = getattr(config, kind)
        model = make(catalogue, settings)
        # Weights as they start are so small that nearly everything is a tie.
        for weight in model.trainable_variables:
            weight.assign_add(tf.random.normal(weight.shape, stddev=0.3))
        if kind == "head":
            save_head(place.output, model, catalogue)
        else:
            save_model(place.output, kind, model, settings, catalogue.schema)

    return save


def _nothing(config: Config, place: Place) -> None:
    del config, place


STAND_INS: dict[str, Callable[[Config, Place], None]] = {
    "validate": _nothing,
    "train-retrieval": _untrained("retrieval", RetrievalModel),
    "train-ranker": _untrained("ranker", Ranker),
    "train-head": _untrained("head", CandidateHead),
    "evaluate": _nothing,
}
