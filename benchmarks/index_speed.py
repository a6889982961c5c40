"""Every form of the index over one catalogue: recall, time a query, build, load and memory.

    python -m benchmarks.index_speed RUN [--products N] [--kinds scann,portable,…]

RUN is a run whose retrieval model is trained. Products are those of the run as its item encoder sees them, or, with
`--products`, so many more by the same encoder (contents drawn anew from those of the run, ids unknown: each is a mix of
a title, a category, a brand and a price that the run has). Queries are shoppers at the test cut-off, with and without
times, and products; the indexes are built for and tuned with others, shoppers at the validation cut-off among them. One
thread, inside a graph, one query at a time.
"""

import argparse
import gc
import logging
import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from benchmarks.index_load import load_in_new_process, save_index
from benchmarks.machine import machine, table
from trainer.config import ExportConfig
from trainer.data import Catalogue, load_catalogue, load_sequences
from trainer.export_index import IndexQueries, Products, Shop, build_index, index_queries
from trainer.index import Index
from trainer.retrieval import RetrievalModel, load_retrieval
from transform.tables import FIRST

_BLOCK = 32_768
_HELD_OUT = 1_000
# As an export asks: C candidates and X exclusions.
_NEIGHBOURS = 300


@dataclass(frozen=True)
class Form:
    """A kind of index and how it stores vectors."""

    kind: str
    storage: str = "float32"

    @property
    def name(self) -> str:
        """For the table."""
        return self.kind if self.storage == "float32" else f"{self.kind}, {self.storage}"


FORMS = {
    form.name.replace(", ", "_"): form
    for form in (Form("scann"), Form("portable"), Form("portable", "bfloat16"), Form("portable", "int8"))
}


def embedded(model: RetrievalModel, catalogue: Catalogue, products: int | None) -> np.ndarray:
    """Vectors of the catalogue's rows, or of the reserved rows and `products` new ones: float32 [N, D]."""
    if products is None:
        rows = np.arange(catalogue.size, dtype=np.int32)
        parts = [
            model.candidate_embeddings(tf.constant(rows[start : start + _BLOCK])).numpy()
            for start in range(0, len(rows), _BLOCK)
        ]
        return np.concatenate(parts)
    vectors = np.zeros([FIRST + products, model.config.dim], np.float32)
    start = FIRST
    for block in _mixed(model, catalogue, products):
        vectors[start : start + len(block)] = block
        start += len(block)
        if start // 10**6 > (start - len(block)) // 10**6:
            logging.info("%d of %d products embedded", start, products)
    return vectors


def _mixed(model: RetrievalModel, catalogue: Catalogue, products: int) -> Iterator[np.ndarray]:
    """Vectors of new products a block at a time, each kind of content from another product of the catalogue."""
    generator = np.random.default_rng(0)
    encoder = model.products
    for start in range(0, products, _BLOCK):
        count = min(_BLOCK, products - start)
        drawn = {
            name: tf.constant(generator.integers(FIRST, catalogue.size, count).astype(np.int32))
            for name in encoder.features(tf.constant([FIRST]))
        }
        features = {name: encoder.features(rows)[name] for name, rows in drawn.items()}
        fused = encoder.item_encoder.encode(features, tf.ones([count], tf.int32))
        yield model.project_items(fused).numpy()


def megabytes(index: Index) -> float:
    """Of what the index keeps."""
    return sum(variable.dtype.size * int(np.prod(variable.shape)) for variable in index.variables) / 2**20


def measured(form: Form, products: Products, queries: IndexQueries) -> list[str]:
    """One line of the table."""
    config = ExportConfig(portable_storage=form.storage)
    index, report = build_index(form.kind, products, _NEIGHBOURS, queries, config)
    dim, kept = products.vectors.shape[1], megabytes(index)
    with tempfile.TemporaryDirectory() as folder:
        save_index(index, dim, Path(folder))
        # Two of ten million products do not fit side by side; layers and graphs refer to each other.
        del index
        gc.collect()
        loaded = load_in_new_process(Path(folder), dim)
    return [
        form.name,
        *(f"{recall:.4f}" for recall in report["recall@100_by_query"].values()),
        f"{report['ms_per_query']:.3f}",
        f"{report['ms_per_query_brute_force']:.1f}",
        f"{report['build_seconds']:.0f}",
        f"{loaded.seconds:.1f}",
        f"{kept:.0f}",
        f"{loaded.megabytes:.0f}",
        str(report["settings"]),
    ]


def prepared(run: Path, count: int | None) -> tuple[Products, IndexQueries]:
    """What is indexed, and what is asked; the models and the data are let go."""
    transform = run / "steps" / "embed-content"
    catalogue = load_catalogue(transform)
    model = load_retrieval(run / "steps" / "train-retrieval", catalogue)
    vectors = embedded(model, catalogue, count)
    rows = np.flatnonzero(catalogue.available) if count is None else np.arange(FIRST, len(vectors))
    products = Products(vectors, rows.astype(np.int32))
    shop = Shop(model, catalogue, load_sequences(transform), transform)
    return products, index_queries(shop, products, model.item_table(), _HELD_OUT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--products", type=int, default=None)
    parser.add_argument("--kinds", default=",".join(FORMS))
    arguments = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    started = time.perf_counter()
    products, queries = prepared(arguments.run, arguments.products)
    # The models and the data, gigabytes of cycles.
    gc.collect()
    seconds = time.perf_counter() - started
    logging.info("%d products in %.0f s", len(products.rows), seconds)
    lines = []
    for name in arguments.kinds.split(","):
        lines.append(measured(FORMS[name], products, queries))
        logging.info("%s", lines[-1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    shape = (len(products.rows), products.vectors.shape[1])
    print(f"\n{shape[0]} products × {shape[1]}, read and embedded in {seconds:.0f} s; {machine()}")
    print(f"memory at most {peak:.1f} GiB\n")
    recalls = ["recall@100 of shoppers", "without times", "of products"]
    print(table(["index", *recalls, "ms", "ms exact", "build s", "load s", "MB", "MB loaded", "settings"], lines))


if __name__ == "__main__":
    main()
