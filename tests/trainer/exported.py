"""A SavedModel called as a model server calls it: in a session, by its signatures, with their defaults filled in."""

from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import tensorflow as tf


class ServedModel:
    """A SavedModel in a TensorFlow session."""

    def __init__(self, directory: Path) -> None:
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        self.meta_graph = tf.compat.v1.saved_model.load(self._session, ["serve"], str(directory))
        self.signatures = {
            name: definition
            for name, definition in self.meta_graph.signature_def.items()
            if not name.startswith("__saved_model")
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._session.close()

    def __call__(self, signature: str, **inputs: object) -> dict[str, np.ndarray]:
        """Outputs by name."""
        definition = self.signatures[signature]
        given = {name: tf.make_ndarray(proto) for name, proto in definition.defaults.items()} | inputs
        feeds = {definition.inputs[name].name: values for name, values in given.items()}
        return self._session.run({name: info.name for name, info in definition.outputs.items()}, feeds)
