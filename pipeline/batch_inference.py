"""Calls of a SavedModel's signature inside a Beam job, by the code that the model server runs."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from apache_beam.ml.inference.base import ModelHandler

from serving.options import ServerOptions
from serving.servable import Servable, session_config

log = logging.getLogger(__name__)

# Arrays by the name of a signature's input or output, of the same number of rows.
Arrays = Mapping[str, np.ndarray]


class SignatureHandler(ModelHandler[Arrays, Arrays, Servable]):
    """RunInference for one signature of a SavedModel. The threads of a worker share one session.

    An element is as many rows as belong together, here a shard of the output: Beam's own batches would mix shards and
    end where the runner ends a bundle.
    """

    def __init__(self, directory: Path, signature: str, outputs: Sequence[str], batch_size: int) -> None:
        """Loads nothing yet.

        Args:
            directory: one version of a model, where every worker can read it.
            signature: its name.
            outputs: those that are wanted.
            batch_size: rows that are asked for at once.
        """
        super().__init__(min_batch_size=1, max_batch_size=1)
        self._directory = str(directory)
        self._signature = signature
        self._outputs = sorted(outputs)
        self._batch_size = batch_size

    def load_model(self) -> Servable:
        """Once in each worker process."""
        start = time.monotonic()
        servable = Servable(Path(self._directory), session_config(ServerOptions()))
        log.info("loaded %s in %.1f s", self._directory, time.monotonic() - start)
        return servable

    def run_inference(
        self, batch: Sequence[Arrays], model: Servable, inference_args: dict[str, Any] | None = None
    ) -> Iterator[Arrays]:
        """Outputs of each element, row for row. Inputs that have a default may be left out.

        Raises:
            RequestError: an input is missing or unknown, or the graph failed.
        """
        del inference_args
        return (self._answer(inputs, model) for inputs in batch)

    def get_num_bytes(self, batch: Sequence[Arrays]) -> int:
        """For Beam's metrics: of strings only the references, to count the rest would take longer than to send it."""
        return sum(values.nbytes for inputs in batch for values in inputs.values())

    def _answer(self, inputs: Arrays, model: Servable) -> Arrays:
        signature = model.signature(self._signature)
        rows = len(next(iter(inputs.values())))
        parts = [
            model.run(
                signature,
                {name: values[start : start + self._batch_size] for name, values in inputs.items()},
                self._outputs,
            )
            for start in range(0, rows, self._batch_size)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in self._outputs}
