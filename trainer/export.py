"""Trained models → SavedModels that hold everything a server needs, and the index's recall and speed."""

import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from trainer.answer_sizes import FilterSizes, Sizes
from trainer.baselines import choose_recent_popularity
from trainer.candidate_features import product_facts
from trainer.candidate_head import CandidateHead, load_head
from trainer.config import EvaluationConfig, ExportConfig, IndexKind
from trainer.content_encoders import load_encoders
from trainer.data import Catalogue, Sequences, load_catalogue, load_sequences
from trainer.errors import ExportError
from trainer.explanation import explain
from trainer.export_index import Products, Shop, build_index, index_of_styles, index_queries
from trainer.filtered_search import FilterAssets
from trainer.hash_order import hash_order
from trainer.index import Index
from trainer.inverted_lists import InvertedLists, invert_categories, invert_names, invert_prices, write_values
from trainer.item_encoder_module import ItemEncoderModule
from trainer.list_quality import SHARES, Pairs, bought_together, found_by_share, next_clicks
from trainer.metrics import LIST_LENGTH
from trainer.neighbours import Neighbours, neighbours_by_purchases, neighbours_by_sessions
from trainer.newcomer_prior import NewcomerPrior, choose_newcomer_prior
from trainer.queries import Span, build_queries, load_split, sample_users
from trainer.ranker import Ranker, load_ranker
from trainer.recommender_module import Complements, Filters, ItemLists, RecommenderModule, Stages, Strings
from trainer.retrieval import RetrievalModel, load_retrieval
from trainer.shortlist import new_places, unmet_rows
from trainer.string_tables import write_asset
from trainer.style import style_classes
from trainer.target_value import type_shares
from trainer.warmup import Request, write_warmup
from transform.feature_schema import ITEM_IDS_FILE, VOCABULARY_FOLDER
from transform.tables import BEHAVIOUR, EVENT_TYPES, FIRST, IMPRESSION, PADDING, SEARCH

log = logging.getLogger(__name__)

RECOMMENDER, PORTABLE_RECOMMENDER, ITEM_ENCODER = "recommender", "recommender_portable", "item_encoder"
INDEX_REPORT = "index.json"
# What the lists for new visitors and beside a product are made of, and how good they are.
LISTS_REPORT = "lists.json"
# What the model is made of, for people and for the publishing step; servers do not read it.
METADATA_FILE = Path("assets.extra") / "tandem.json"

# Shoppers whose validation chooses the window of the popularity prior.
_PRIOR_QUERIES = 2_000
# Products whose lists the report shows.
_EXAMPLES = 4
# The batch sizes that serving_config/batching.config allows.
_WARMUP_BATCHES = (1, 2, 4, 8, 16, 32)
# A limit that no product exceeds.
_HIGH_PRICE = 1e30
# Every block has this shape, whatever the catalogue's size, and a product keeps its place in it: after a refresh its
# vector is the same to the last bit.
_ROWS_AT_ONCE = 4_096


class _Vectors(NamedTuple):
    """Fused item representations of every catalogue row."""

    retrieval: np.ndarray  # float32 [V, D]
    ranker: np.ndarray  # float32 [V, E]


@dataclass(frozen=True)
class _World:
    """What all parts of the export read."""

    catalogue: Catalogue
    sequences: Sequences
    retrieval: RetrievalModel
    ranker: Ranker
    head: CandidateHead
    config: ExportConfig

    @property
    def sizes(self) -> Sizes:
        config = self.config
        length = self.ranker.config.history_length
        return Sizes(
            history=length,
            answer=config.k,
            candidates=config.candidates,
            exclusions=config.exclude_length,
            explained=config.explained_candidates,
            exclude_history=config.exclude_history,
            filters=FilterSizes(
                values=config.filter_values,
                allowed=config.allow_length,
                fetched=config.filter_neighbours,
                lists=config.lists,
                list_length=config.list_length,
                list_candidates=config.list_candidates,
            ),
            new=new_places(config.candidates, config.new_candidates, len(self.unmet)),
        )

    @property
    def event_types(self) -> dict[str, int]:
        """Name → number of the types that enter histories and that the data has."""
        met = np.unique(self.sequences.types)
        return {
            name: number for name, number in EVENT_TYPES.items() if number in met and number not in (IMPRESSION, SEARCH)
        }

    @property
    def unmet(self) -> np.ndarray:
        """Products that may be recommended and that training never met: int32 rows."""
        return unmet_rows(self.catalogue, self.catalogue.available)


def export(
    transform_dir: Path,
    retrieval_dir: Path,
    ranker_dir: Path,
    head_dir: Path,
    output: Path,
    config: ExportConfig,
    log_dir: Path,
) -> None:
    """Writes the SavedModels `output`/recommender and `output`/item_encoder, `output`/index.json and lists.json.

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
    catalogue = load_catalogue(transform_dir)
    if not catalogue.available[FIRST:].any():
        raise ExportError(
            f"{transform_dir}: none of the {catalogue.size - FIRST} products is available, so there is nothing to "
            "recommend. Check the column `available` of the items table."
        )
    world = _World(
        catalogue,
        load_sequences(transform_dir),
        load_retrieval(retrieval_dir, catalogue),
        load_ranker(ranker_dir, catalogue),
        load_head(head_dir, catalogue),
        config,
    )
    log.info("export: vectors of %d products", catalogue.size - FIRST)
    start = time.perf_counter()
    vectors = _Vectors(
        _of_all_rows(world.retrieval.products.vectors, catalogue.size),
        _of_all_rows(world.ranker.item_vectors, catalogue.size),
    )
    embedding_seconds = time.perf_counter() - start
    projected = _of_all_rows(
        lambda part: world.retrieval.project_items(tf.gather(vectors.retrieval, part)), catalogue.size
    )
    products = Products(projected, np.flatnonzero(catalogue.available).astype(np.int32))
    shop = Shop(world.retrieval, catalogue, world.sequences, transform_dir)
    queries = index_queries(shop, products, tf.constant(vectors.retrieval), config.recall_queries)
    prior, lists_report = _prior(world, transform_dir)
    reports: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as assets:
        files = {
            file.name: write_asset(file, Path(assets)) for file in (transform_dir / VOCABULARY_FOLDER).glob("*.txt")
        }
        for model, kind in recommender_models(config).items():
            index, reports[model] = build_index(kind, products, world.sizes.fetched, queries, config)
            lists, more = _item_lists(world, kind, projected, index)
            recommender = _recommender(world, vectors, index, files, prior, lists)
            if model == RECOMMENDER:
                lists_report |= more | {"examples": _examples(recommender, catalogue)}
            _save(recommender, recommender.functions, output / model)
            write_warmup(output / model, model, _recommender_requests(world, recommender.functions))
            _write_metadata(output / model, _recommender_metadata(world, reports[model]))
        encoder = ItemEncoderModule(
            world.retrieval,
            catalogue.schema,
            catalogue.id_rows,
            files,
            load_encoders(transform_dir),
            catalogue.features.get(BEHAVIOUR),
        )
        _save(encoder, encoder.functions, output / ITEM_ENCODER)
    write_warmup(output / ITEM_ENCODER, ITEM_ENCODER, _item_encoder_requests(world))
    dimensions = {"retrieval": projected.shape[1]}
    _write_metadata(output / ITEM_ENCODER, {"model": ITEM_ENCODER, "dimensions": dimensions, "custom_ops": []})
    report = _index_report(reports) | {"embedding_seconds": embedding_seconds}
    (output / INDEX_REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (output / LISTS_REPORT).write_text(json.dumps(lists_report, indent=2) + "\n", encoding="utf-8")
    _write_scalars(log_dir, report)


def recommender_models(config: ExportConfig) -> dict[str, IndexKind]:
    """Name → index of the recommenders that an export writes."""
    if config.index == "both":
        return {RECOMMENDER: "scann", PORTABLE_RECOMMENDER: "portable"}
    return {RECOMMENDER: config.index}


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


def _item_lists(world: _World, kind: IndexKind, vectors: np.ndarray, index: Index) -> tuple[ItemLists, dict[str, Any]]:
    """What stands beside a product, and how often it is what shoppers turn to or buy next.

    Args:
        world: models and data.
        kind: of the index.
        vectors: as the index holds them, float32 [V, D].
        index: over those of available products.
    """
    config, catalogue = world.config, world.catalogue
    beside = neighbours_by_sessions(world.sequences, catalogue, config.neighbours)
    seed = EvaluationConfig().seed
    spans: tuple[Span, ...] = ("validation", "test")
    clicks = {span: next_clicks(world.sequences, span, seed) for span in spans}
    found = _found(world, clicks, partial(found_by_share, index, vectors, beside), config.similar_behaviour_share)
    report = {"similar_items": found | _with_behaviour(beside, catalogue)}
    complements = None
    style = style_classes(vectors, catalogue.categories) if config.complementary else None
    if style is None:
        why = "no product has a category" if config.complementary else "export.complementary is false"
        report["complementary_items"] = {"reason": why}
        log.info("export: no signature complementary_items: %s", why)
    else:
        start = time.perf_counter()
        styles = style.styles(vectors)
        rows = np.flatnonzero(catalogue.available).astype(np.int32)
        width = 2 * world.sizes.answer + world.sizes.excluded + 1
        style_index = index_of_styles(kind, Products(styles, rows), width, config)
        bought = neighbours_by_purchases(world.sequences, catalogue, style.category, config.neighbours)
        complements = Complements(style_index, style, bought, config.complementary_behaviour_share)
        pairs = {span: bought_together(world.sequences, span, style.category, seed) for span in spans}
        measure = partial(found_by_share, style_index, styles, bought, category=style.category)
        found = _found(world, pairs, measure, config.complementary_behaviour_share)
        report["complementary_items"] = found | _with_behaviour(bought, catalogue)
        log.info("export: complementary products in %.1f s", time.perf_counter() - start)
    return ItemLists(beside, config.similar_behaviour_share, config.history_share, complements), report


def _found(
    world: _World,
    pairs: dict[Span, Pairs],
    measure: Callable[[Pairs, Sequence[float]], dict[float, float]],
    served: float,
) -> dict[str, Any]:
    """Share of the wanted products in lists of ten by the weight of behaviour, for each span that tells any."""
    report: dict[str, Any] = {"behaviour_share": served}
    for span, told in pairs.items():
        told = told.among(world.catalogue.available)
        if len(told.asked):
            found = measure(told, sorted({*SHARES, served}))
            report[span] = {
                "pairs": len(told.asked),
                "found": [{"behaviour_share": share, "found": value} for share, value in found.items()],
            }
    return report


def _examples(recommender: RecommenderModule, catalogue: Catalogue) -> list[dict[str, Any]]:
    """A few products that were met in training, drawn by a hash, with the lists that are served beside them."""
    rows = np.flatnonzero(catalogue.available & (catalogue.train_counts > 0))
    rows = rows[hash_order(catalogue.item_ids[rows], EvaluationConfig().seed)[:_EXAMPLES]]
    examples = []
    for item_id in catalogue.item_ids[rows]:
        lists = {}
        for name in ("similar", "complementary"):
            function = recommender.functions.get(f"{name}_items")
            found = function(item_ids=tf.constant([item_id]))["item_ids"].numpy()[0] if function else None
            lists[name] = None if found is None else [one.decode() for one in found[:LIST_LENGTH] if one]
        examples.append({"item_id": str(item_id), **lists})
    return examples


def _with_behaviour(neighbours: Neighbours, catalogue: Catalogue) -> dict[str, Any]:
    known = (neighbours.strengths > 0).any(axis=1) & catalogue.available
    return {"neighbours": neighbours.rows.shape[1], "products_with_neighbours": int(known.sum())}


def _recommender(
    world: _World,
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
    context = {feature.name: assets[feature.vocabulary] for feature in catalogue.schema.context}
    strings = Strings(
        item_ids=assets[ITEM_IDS_FILE],
        device=context.get("device"),
        region=context.get("region"),
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


def _prior(world: _World, transform_dir: Path) -> tuple[NewcomerPrior, dict[str, Any]]:
    """The recent-popularity baseline, told apart by request where that helps, and what was measured of it.

    What an evaluation calls popularity is what is served to those whose request tells nothing.
    """
    split, config = load_split(transform_dir), EvaluationConfig()
    length = world.retrieval.config.history_length
    validation = build_queries(world.sequences, world.catalogue, split, "validation", config, length)
    kept = sample_users(world.sequences, validation.users, _PRIOR_QUERIES, config.seed)
    validation = validation.take(np.flatnonzero(np.isin(validation.users, kept)))
    ((popularity, _),) = choose_recent_popularity(world.sequences, world.catalogue, split, config, [validation])
    prior, report = choose_newcomer_prior(world.sequences, world.catalogue, split, config, popularity)
    return prior, {"new_visitors": report}


def _save(module: tf.Module, functions: dict[str, Any], directory: Path) -> None:
    """Writes a SavedModel in place of what is there."""
    shutil.rmtree(directory, ignore_errors=True)
    options = tf.saved_model.SaveOptions(namespace_whitelist=["Scann"])
    tf.saved_model.save(module, str(directory), signatures=functions, options=options)
    log.info("export: wrote %s", directory)


def _recommender_requests(world: _World, signatures: Collection[str]) -> Iterator[Request]:
    """Every signature with histories of real products at each batch size; defaults only where B is 1."""
    sizes, ids = world.sizes, world.catalogue.item_ids
    generator = np.random.default_rng(0)
    rows = np.flatnonzero(world.catalogue.available)
    for batch in _WARMUP_BATCHES:
        chosen = ids[generator.choice(rows, [batch, max(sizes.history, sizes.candidates, sizes.explained)])]
        history = {"history_item_ids": chosen[:, : sizes.history]}
        optional = {
            "history_event_types": np.full([batch, sizes.history], "", dtype=object),
            "history_timestamps": np.zeros([batch, sizes.history], np.int64),
            "context_timestamp": np.zeros([batch], np.int64),
            "context_device": np.full([batch], "", dtype=object),
            "context_region": np.full([batch], "", dtype=object),
            "user_embedding": np.zeros([batch, world.retrieval.config.dim], np.float32),
            "user_state": np.zeros([batch, world.ranker.config.dim + world.ranker.config.history_length], np.float32),
            "blend": np.zeros(batch, np.float32),
            "target_weights": np.zeros([batch, len(world.event_types)], np.float32),
            "exclude_item_ids": np.full([batch, sizes.exclusions], "", dtype=object),
        }
        for signature in ("serving_default", "recommend", "retrieve", "embed_user"):
            yield signature, history | optional
        yield from _filtered_requests(world, history | optional, chosen[:, -1])
        yield "rank", history | optional | {"candidate_item_ids": chosen[:, : sizes.candidates]}
        for signature in ("similar_items", "complementary_items"):
            if signature in signatures:
                yield signature, history | optional | {"item_ids": chosen[:, 0]}
        if batch == 1:
            # Gradients of larger batches would hold up the load, and no page of a shop waits for them.
            yield "explain", history | optional | {"candidate_item_ids": chosen[:, : sizes.explained]}
            yield "recommend", history
            # Without a history another branch of the graph answers.
            yield "recommend", {"history_item_ids": np.full([1, sizes.history], "", dtype=object)}


def _filtered_requests(world: _World, inputs: dict[str, np.ndarray], item_ids: np.ndarray) -> Iterator[Request]:
    """Those that restrict what may be answered: half of a batch by a price that all products have, half by a list of
    products; and pages of two lists, one of which is unrestricted."""
    sizes, batch = world.sizes.filters, len(item_ids)
    odd = np.arange(batch) % 2 == 1
    allowed = np.full([batch, sizes.allowed], "", dtype=object)
    allowed[odd, 0] = item_ids[odd]
    filters = {
        "filter_categories": np.full([batch, sizes.values], "", dtype=object),
        "filter_brands": np.full([batch, sizes.values], "", dtype=object),
        "filter_price_min": np.zeros(batch, np.float32),
        "filter_price_max": np.full(batch, _HIGH_PRICE, np.float32),
        "allow_item_ids": allowed,
        "include_unavailable": np.zeros(batch, bool),
    }
    yield "recommend_filtered", inputs | filters
    yield "retrieve_filtered", inputs | filters
    names = np.full([batch, sizes.lists], "", dtype=object)
    names[:, :2] = "list"
    prices = np.zeros([batch, sizes.lists], np.float32)
    prices[:, 1] = _HIGH_PRICE
    lists = {
        "list_names": names,
        "list_categories": np.full([batch, sizes.lists], "", dtype=object),
        "list_brands": np.full([batch, sizes.lists], "", dtype=object),
        "list_price_min": np.zeros([batch, sizes.lists], np.float32),
        "list_price_max": prices,
    }
    yield "recommend_lists", inputs | lists


def _item_encoder_requests(world: _World) -> Iterator[Request]:
    catalogue = world.catalogue
    rows = np.flatnonzero(catalogue.available)
    for batch in _WARMUP_BATCHES:
        chosen = np.resize(rows, batch)
        width = next((f.length for f in catalogue.schema.item if f.name == "attributes"), 1)
        yield (
            "serving_default",
            {
                "title": catalogue.titles[chosen],
                "description": np.full([batch], "", dtype=object),
                "category": catalogue.categories[chosen],
                "brand": np.full([batch], "", dtype=object),
                "attributes": np.full([batch, width], "", dtype=object),
                "price": catalogue.prices[chosen],
                "image": np.array([catalogue.images[row] for row in chosen], dtype=object),
                "item_id": catalogue.item_ids[chosen],
            },
        )


def _recommender_metadata(world: _World, report: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": RECOMMENDER,
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


def _write_metadata(model: Path, metadata: dict[str, Any]) -> None:
    path = model / METADATA_FILE
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")


def _write_scalars(log_dir: Path, report: dict[str, Any]) -> None:
    """Figures of the index for TensorBoard."""
    with tf.summary.create_file_writer(str(log_dir)).as_default(step=0):
        for name in ("recall@100", "ms_per_query", "ms_per_query_brute_force", "build_seconds"):
            tf.summary.scalar(f"index/{name.replace('@', '_at_')}", report[name])
