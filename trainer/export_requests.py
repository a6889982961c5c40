"""Warm-up requests of an export: every signature at every batch size, so that no shopper waits for a first run."""

from collections.abc import Collection, Iterator

import numpy as np

from trainer.export_world import World
from trainer.warmup import Request

# The batch sizes that serving_config/batching.config allows.
_WARMUP_BATCHES = (1, 2, 4, 8, 16, 32)
# A limit that no product exceeds.
_HIGH_PRICE = 1e30


def recommender_requests(world: World, signatures: Collection[str]) -> Iterator[Request]:
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


def _filtered_requests(world: World, inputs: dict[str, np.ndarray], item_ids: np.ndarray) -> Iterator[Request]:
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


def item_encoder_requests(world: World) -> Iterator[Request]:
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
