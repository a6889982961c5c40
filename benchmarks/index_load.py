"""How long a server takes to load an index, and the memory that it then holds: saved, and loaded by a new process."""

import multiprocessing
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import tensorflow as tf

from serving.servable import Servable
from trainer.index import Index


@dataclass(frozen=True)
class Loaded:
    """Of one load."""

    seconds: float  # until the first answer
    megabytes: float  # that the process grew by


class _Search(tf.Module):
    """One signature, float32 [1, D] → rows int32 [1, k]."""

    def __init__(self, index: Index, dim: int) -> None:
        super().__init__()
        self.index = index
        spec = [tf.TensorSpec([1, dim], tf.float32, name="query")]
        self.search = tf.function(lambda query: {"rows": index(query)[1]}, input_signature=spec, autograph=False)


def save_index(index: Index, dim: int, folder: Path) -> None:
    """Saves an index over vectors of `dim` numbers as an export does."""
    module = _Search(index, dim)
    options = tf.saved_model.SaveOptions(namespace_whitelist=["Scann"])
    tf.saved_model.save(module, str(folder), signatures={"search": module.search}, options=options)


def load_in_new_process(folder: Path, dim: int) -> Loaded:
    """Loads what `save_index` saved as the embedded server does, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_load, (folder, dim))


def _load(folder: Path, dim: int) -> Loaded:
    process = psutil.Process()
    before, began = process.memory_info().rss, time.perf_counter()
    servable = Servable(folder, tf.compat.v1.ConfigProto())
    signature = servable.signature("search")
    servable.run(signature, {"query": np.ones([1, dim], np.float32)}, ["rows"])
    seconds = time.perf_counter() - began
    return Loaded(seconds, (process.memory_info().rss - before) / 2**20)
