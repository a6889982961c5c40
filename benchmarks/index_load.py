"""How long a server takes to load an index, and the memory that it then holds: saved, and loaded by a new process."""

import multiprocessing
import tempfile
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


def load_in_new_process(index: Index, dim: int) -> Loaded:
    """Saves the index as an export does and loads it as the embedded server does.

    Args:
        index: over vectors float32 [N, D].
        dim: D.
    """
    module = _Search(index, dim)
    with tempfile.TemporaryDirectory() as folder:
        options = tf.saved_model.SaveOptions(namespace_whitelist=["Scann"])
        tf.saved_model.save(module, folder, signatures={"search": module.search}, options=options)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.apply(_load, (Path(folder), dim))


def _load(folder: Path, dim: int) -> Loaded:
    process = psutil.Process()
    before, began = process.memory_info().rss, time.perf_counter()
    servable = Servable(folder, tf.compat.v1.ConfigProto())
    signature = servable.signature("search")
    servable.run(signature, {"query": np.ones([1, dim], np.float32)}, ["rows"])
    seconds = time.perf_counter() - began
    return Loaded(seconds, (process.memory_info().rss - before) / 2**20)
