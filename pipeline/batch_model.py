"""The published model that a batch job asks, by its files."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from pipeline.publish import newest_version
from pipeline.runner import StepError
from protos.predict_pb2 import SignatureDef
from serving.client_signature import Signature, signature_from
from serving.model_config import SAVED_MODEL

# Beside the graph: it holds a checksum of every weight.
_WEIGHTS = Path("variables") / "variables.index"


@dataclass(frozen=True)
class BatchModel:
    """One version of a published model."""

    directory: Path
    name: str
    version: int
    fingerprint: str
    signatures: dict[str, Signature]

    def signature(self, name: str, k: int) -> Signature:
        """The signature of that name.

        Raises:
            StepError: there is none, or it answers with fewer than `k` products.
        """
        found = self.signatures.get(name)
        if found is None:
            raise StepError(
                f"{self.directory} has no signature {name}; it has {', '.join(sorted(self.signatures))}. "
                "Export it, or ask for something else."
            )
        (longest,) = found.outputs["item_ids"].sizes
        if longest is not None and k > longest:
            raise StepError(f"k must be at most {longest}, which the model was exported with; received {k}.")
        return found


def published_model(run: Path, name: str) -> BatchModel:
    """The newest published version, which `tandem serve RUN` serves.

    Raises:
        StepError: there is none.
    """
    base = run / "export" / name
    version = newest_version(base)
    if not version:
        raise StepError(f"no published model in {base}: run `tandem publish {run}` (or `tandem run`) first.")
    directory = base / str(version)
    graph = (directory / SAVED_MODEL).read_bytes()
    weights = directory / _WEIGHTS
    digest = hashlib.sha256(graph + (weights.read_bytes() if weights.is_file() else b""))
    (meta_graph,) = SavedModel.FromString(graph).meta_graphs
    signatures = {
        key: signature_from(SignatureDef.FromString(definition.SerializeToString()))
        for key, definition in meta_graph.signature_def.items()
    }
    return BatchModel(directory, name, version, digest.hexdigest(), signatures)
