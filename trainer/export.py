"""Trained models → SavedModels that hold everything a server needs, and the index's recall and speed."""

import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from trainer.candidate_features import product_facts
from trainer.config import ExportConfig, IndexKind
from trainer.content_encoders import load_encoders
from trainer.data import Catalogue
from trainer.explanation import explain
from trainer.export_index import Products, Shop, build_index, index_queries
from trainer.export_lists import item_lists, learn_beside, learn_prior, list_examples, report_beside
from trainer.export_requests import item_encoder_requests, recommender_requests
from trainer.export_world import World, load_world
from trainer.filtered_search import FilterAssets
from trainer.index import Index
from trainer.inverted_lists import InvertedLists, invert_categories, invert_names, invert_prices, write_values
from trainer.item_encoder_module import ItemEncoderModule
from trainer.newcomer_prior import NewcomerPrior
from trainer.recommender_module import Filters, ItemLists, RecommenderModule, Stages, Strings
from trainer.string_tables import IdTable, write_asset
from trainer.target_value import type_shares
from trainer.warmup import write_warmup
from transform.feature_schema import ITEM_IDS_FILE, VOCABULARY_FOLDER
from transform.tables import BEHAVIOUR, FIRST, PADDING

log = logging.getLogger(__name__)

RECOMMENDER, PORTABLE_RECOMMENDER, ITEM_ENCODER = "recommender", "recommender_portable", "item_encoder"
INDEX_REPORT = "index.json"
# What the lists for new visitors and beside a product are made of, and how good they are.
LISTS_REPORT = "lists.json"
# What the model is made of, for people and for the publishing step; servers do not read it.
METADATA_FILE = Path("assets.extra") / "tandem.json"

# Every block has this shape, whatever the catalogue's size, and a product keeps its place in it: after a refresh its
# vector is the same to the last bit.
_ROWS_AT_ONCE = 4_096


class _Vectors(NamedTuple):
    """Representations of every catalogue row."""

    retrieval: np.ndarray  # fused, float32 [V, D]
    ranker: np.ndarray  # fused, float32 [V, E]
    projected: np.ndarray  # as the index holds them, float32 [V, D]


def export(
    transform_dir: Path,
    retrieval_dir: Path,
    ranker_dir: Path,
    head_dir: Path,
    output: Path,
    config: ExportConfig,
    log_dir: Path,
) -> None:
    """Writes SavedModels, those of `recommender_models` and item_encoder, and index.json and lists.json into `output`.

    Args:
        transform_dir: output of the transform.
        retrieval_dir: trained retrieval model.
        ranker_dir: trained ranker.
        head_dir: trained candidate head.
        output: folder to write into; what an earlier export left there is replaced.
        config: index and widths.
        log_dir: TensorBoard scalars of the index.

    Raises:
        ExportError: no product is available.
        ModelFilesError: a model is missing or was trained on other data.
    """
    world = load_world(transform_dir, retrieval_dir, ranker_dir, head_dir, config)
    start = time.perf_counter()
    vectors = _embed(world)
    embedding_seconds = time.perf_counter() - start
    prior, lists_report = learn_prior(world)
    with tempfile.TemporaryDirectory() as folder:
        assets = {
            file.name: write_asset(file, Path(folder)) for file in (transform_dir / VOCABULARY_FOLDER).glob("*.txt")
        }
        reports, beside_report = _write_recommenders(world, vectors, assets, prior, output)
        _write_item_encoder(world, assets, output / ITEM_ENCODER)
    report = _index_report(reports) | {"embedding_seconds": embedding_seconds}
    _write_json(output / INDEX_REPORT, report)
    _write_json(output / LISTS_REPORT, lists_report | beside_report)
    _write_scalars(log_dir, report)


def recommender_models(config: ExportConfig) -> dict[str, IndexKind]:
    """Name → index of the recommenders that an export writes."""
    if config.index == "both":
        return {RECOMMENDER: "scann", PORTABLE_RECOMMENDER: "portable"}
    return {RECOMMENDER: config.index}


def _embed(world: World) -> _Vectors:
    size = world.catalogue.size
    log.info("export: vectors of %d products", size - FIRST)
    retrieval = _of_all_rows(world.retrieval.products.vectors, size)
    ranker = _of_all_rows(world.ranker.item_vectors, size)
    projected = _of_all_rows(lambda part: world.retrieval.project_items(tf.gather(retrieval, part)), size)
    return _Vectors(retrieval, ranker, projected)


def _write_recommenders(
    world: World, vectors: _Vectors, assets: dict[str, Path], prior: NewcomerPrior, output: Path
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Writes a model for each index that was asked for.

    Returns:
        Reports of the indexes by model; and of the lists beside a product, as the first model serves them.
    """
    config, catalogue = world.config, world.catalogue
    products = Products(vectors.projected, np.flatnonzero(catalogue.available).astype(np.int32))
    shop = Shop(world.retrieval, catalogue, world.sequences, world.transform_dir)
    queries = index_queries(shop, products, tf.constant(vectors.retrieval), config.recall_queries)
    beside = learn_beside(world, vectors.projected)
    reports: dict[str, dict[str, Any]] = {}
    beside_report: dict[str, Any] = {}
    for model, kind in recommender_models(config).items():
        index, reports[model] = build_index(kind, products, world.sizes.fetched, queries, config)
        lists = item_lists(world, beside, kind)
        recommender = _recommender(world, vectors, index, assets, prior, lists)
        if not beside_report:
            beside_report = report_beside(world, beside, lists, index, vectors.projected)
            beside_report["examples"] = list_examples(recommender, catalogue)
        _save(recommender, recommender.functions, output / model)
        write_warmup(output / model, model, recommender_requests(world, recommender.functions))
        _write_json(output / model / METADATA_FILE, _recommender_metadata(model, world, reports[model]))
    return reports, beside_report


def _write_item_encoder(world: World, assets: dict[str, Path], output: Path) -> None:
    catalogue = world.catalogue
    encoder = ItemEncoderModule(
        world.retrieval,
        catalogue.schema,
        catalogue.id_rows,
        assets,
        load_encoders(world.transform_dir),
        catalogue.features.get(BEHAVIOUR),
    )
    _save(encoder, encoder.functions, output)
    write_warmup(output, ITEM_ENCODER, item_encoder_requests(world))
    dimensions = {"retrieval": world.retrieval.config.dim}
    _write_json(output / METADATA_FILE, {"model": ITEM_ENCODER, "dimensions": dimensions, "custom_ops": []})


def _index_report(reports: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """That of the first model, with those of others under the kind of their index."""
    first, *others = reports.values()
    return first | {report["kind"]: report for report in others}


def _of_all_rows(vectors: Callable[[tf.Tensor], tf.Tensor], size: int) -> np.ndarray:
    """Vectors of every catalogue row, float32 [V, D], a block at a time; the last is filled up with padding."""
    rows = np.arange(-(-size // _ROWS_AT_ONCE) * _ROWS_AT_ONCE, dtype=np.int32)
    rows[size:] = PADDING
    blocks = [vectors(tf.constant(block)).numpy() for block in rows.reshape(-1, _ROWS_AT_ONCE)]
    return np.concatenate(blocks)[:size]


def _recommender(
    world: World,
    vectors: _Vectors,
    index: Index,
    assets: dict[str, Path],
    prior: NewcomerPrior,
    lists: ItemLists,
) -> RecommenderModule:
    retrieval, ranker, catalogue = world.retrieval, world.ranker, world.catalogue
    stages = Stages(
        # Several signatures call these: each is traced once and shared, which is a fifth of the export's tracing.
        query_embeddings=tf.function(retrieval.query_embeddings, autograph=False),
        project_items=retrieval.project_items,
        unprojected_queries=retrieval.unprojected_queries,
        encode=tf.function(ranker.encode, autograph=False),
        state_rows=lambda batch: ranker.objective.question(batch)["history_rows"],
        score=tf.function(ranker.score, autograph=False),
        head=world.head,
        explain=partial(explain, ranker, steps=world.config.explanation_steps),
        retrieval_items=vectors.retrieval,
        item_norms=retrieval.projected_norms(tf.constant(vectors.retrieval)).numpy(),
        ranker_items=vectors.ranker,
        facts=product_facts(catalogue),
        retrieval_history=retrieval.config.history_length,
        ranker_history=ranker.config.history_length,
        has_timestamps=catalogue.schema.has_timestamps,
    )
    strings = Strings(
        item_ids=assets[ITEM_IDS_FILE],
        contexts={feature.name: IdTable.of(feature, assets) for feature in catalogue.schema.context},
        event_types=world.event_types,
        default_event_type=int(np.bincount(world.sequences.types).argmax()),
    )
    return RecommenderModule(
        *(stages, index, strings, world.sizes, prior, catalogue.available, lists, world.unmet),
        filters=_filters(catalogue, next(iter(assets.values())).parent),
        type_shares=type_shares(world.sequences, catalogue.size, list(world.event_types.values())),
    )


def _filters(catalogue: Catalogue, folder: Path) -> Filters:
    """The catalogue's inverted lists; the assets of their values are written into `folder`."""
    lists = InvertedLists(
        invert_categories(catalogue.categories),
        invert_names(catalogue.brands),
        invert_prices(catalogue.prices),
        catalogue.prices,
    )
    written = {}
    for name, values in (("categories", lists.categories.values), ("brands", lists.brands.values)):
        with tempfile.TemporaryDirectory() as whole:
            written[name] = write_asset(write_values(values, Path(whole) / f"filter_{name}.txt"), folder)
    return Filters(lists, FilterAssets(written["categories"], written["brands"]))


def _save(module: tf.Module, functions: dict[str, Any], directory: Path) -> None:
    """Writes a SavedModel in place of what is there."""
    shutil.rmtree(directory, ignore_errors=True)
    options = tf.saved_model.SaveOptions(namespace_whitelist=["Scann"])
    tf.saved_model.save(module, str(directory), signatures=functions, options=options)
    log.info("export: wrote %s", directory)


def _recommender_metadata(model: str, world: World, report: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": model,
        "index": {"kind": report["kind"], "recall@100": report["recall@100"], "settings": report["settings"]},
        "widths": asdict(world.sizes),
        "products": world.catalogue.size - FIRST,
        "recommendable": report["n"],
        "dimensions": {"retrieval": report["dim"], "ranker": world.ranker.config.dim},
        "head": list(world.head.parts),
        # The order of `target_weights`.
        "targets": list(world.event_types),
        "custom_ops": ["Scann"] if report["kind"] == "scann" else [],
        "tensorflow": tf.__version__,
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _write_scalars(log_dir: Path, report: dict[str, Any]) -> None:
    """Figures of the index for TensorBoard."""
    with tf.summary.create_file_writer(str(log_dir)).as_default(step=0):
        for name in ("recall@100", "ms_per_query", "ms_per_query_brute_force", "build_seconds"):
            tf.summary.scalar(f"index/{name.replace('@', '_at_')}", report[name])
