"""One version of a model in a TensorFlow session of its own, called by its signatures."""

import ctypes
import gc
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import tensorflow as tf

# Registers ScaNN's ops with TensorFlow; a SavedModel that holds them doesn't load without it.
from scann.scann_ops.py import scann_ops  # noqa: F401
from tensorflow.core.framework.tensor_shape_pb2 import TensorShapeProto
from tensorflow.core.protobuf.config_pb2 import CallableOptions
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef, TensorInfo

from serving.errors import RequestError, status_code
from serving.model_config import check_version_dir
from serving.options import CORES, ServerOptions

DEFAULT_SIGNATURE = "serving_default"
# A client chooses outputs freely and each choice keeps a compiled graph; beyond this many, all outputs are computed.
_MAX_CALLABLES = 64
_LIBC = ctypes.CDLL("libc.so.6")
_Call = Callable[..., list[np.ndarray]]


@dataclass(frozen=True)
class TensorSpec:
    """What a signature says of one tensor; in `shape` -1 is any size, and no shape at all is any shape."""

    tensor_name: str
    dtype: tf.DType
    shape: tuple[int, ...] | None

    def accepts(self, dtype: int, shape: Sequence[int]) -> bool:
        """Whether a tensor of this DataType number and shape may be fed."""
        if dtype != self.dtype.as_datatype_enum:
            return False
        if self.shape is None:
            return True
        sizes = zip(self.shape, shape, strict=False)
        return len(shape) == len(self.shape) and all(wanted in (-1, size) for wanted, size in sizes)

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.dtype.name} of any shape"
        return f"{self.dtype.name} [{', '.join('?' if size < 0 else str(size) for size in self.shape)}]"


@dataclass(frozen=True, eq=False)
class Signature:
    """A function of the model: named inputs, some with a default, and named outputs."""

    name: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    defaults: Mapping[str, np.ndarray]

    def complete(self, given: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The inputs in the order of the signature, defaults filled in.

        Raises:
            RequestError: INVALID_ARGUMENT if an input is missing or unknown.
        """
        self.check_names(given)
        return [given[alias] if alias in given else self.defaults[alias] for alias in self.inputs]

    def check_names(self, given: Mapping[str, object]) -> None:
        """Whether the set of inputs is the signature's, up to inputs with a default.

        Raises:
            RequestError: INVALID_ARGUMENT that lists what is too much and what is missing.
        """
        extra = sorted(given.keys() - self.inputs.keys())
        missing = sorted(self.inputs.keys() - given.keys() - self.defaults.keys())
        if extra or missing:
            raise RequestError(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"input size does not match signature: {len(given)}!={len(self.inputs)} "
                f"len({{{','.join(sorted(given))}}}) != len({{{','.join(sorted(self.inputs))}}}). "
                f"Sent extra: {{{','.join(extra)}}}. Missing but required: {{{','.join(missing)}}}.",
            )

    def choose_outputs(self, output_filter: Sequence[str]) -> list[str]:
        """The outputs asked for; no filter asks for all.

        Raises:
            RequestError: INVALID_ARGUMENT for an unknown or repeated output.
        """
        for position, alias in enumerate(output_filter):
            if alias not in self.outputs:
                raise RequestError(
                    grpc.StatusCode.INVALID_ARGUMENT,
                    f"output tensor alias not found in signature: {alias} "
                    f"Outputs expected to be in the set {{{','.join(sorted(self.outputs))}}}.",
                )
            if alias in output_filter[:position]:
                raise RequestError(grpc.StatusCode.INVALID_ARGUMENT, f"duplicate output tensor alias: {alias}")
        return sorted(output_filter or self.outputs)


def session_config(options: ServerOptions) -> tf.compat.v1.ConfigProto:
    """TensorFlow's threads as the options have them."""
    return tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=options.tensorflow_intra_op_parallelism,
        inter_op_parallelism_threads=options.tensorflow_inter_op_parallelism or CORES,
    )


class Servable:
    """A loaded SavedModel. Closing the session gives back its variables, tables and index searchers.

    (`tf.saved_model.load` would keep a ScaNN searcher, the size of its vectors, for every version ever loaded.)
    """

    def __init__(self, directory: Path, session_config: tf.compat.v1.ConfigProto) -> None:
        """Loads `directory/saved_model.pb` with its variables and tables.

        Raises:
            ServingError: there is no SavedModel in the folder.
            Exception: whatever TensorFlow raises on files that are damaged or ask for an unknown op.
        """
        check_version_dir(directory)
        self._lock = threading.Lock()
        self._session = tf.compat.v1.Session(graph=tf.Graph(), config=session_config)
        self._callables: dict[tuple[str, ...], _Call] = {}
        try:
            meta_graph = tf.compat.v1.saved_model.load(
                self._session, [tf.compat.v1.saved_model.tag_constants.SERVING], str(directory)
            )
            # All signatures as they are in the file, for GetModelMetadata.
            self.signature_defs: dict[str, SignatureDef] = {}
            for name, definition in meta_graph.signature_def.items():
                # A copy: a reference into the graph's message would keep all its constants in memory.
                self.signature_defs[name] = SignatureDef.FromString(definition.SerializeToString())
            self.signatures = {
                name: _signature(name, definition)
                for name, definition in self.signature_defs.items()
                if _returns_tensors(definition)
            }
            for signature in self.signatures.values():
                self._callable(signature, sorted(signature.outputs))
        except BaseException:
            self.close()
            raise

    def signature(self, name: str) -> Signature:
        """The signature of that name; an empty name is `serving_default`.

        Raises:
            RequestError: FAILED_PRECONDITION if there is none.
        """
        signature = self.signatures.get(name or DEFAULT_SIGNATURE)
        if signature is None:
            raise RequestError(
                grpc.StatusCode.FAILED_PRECONDITION, f'Serving signature key "{name or DEFAULT_SIGNATURE}" not found.'
            )
        return signature

    def run(
        self, signature: Signature, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Calls a signature.

        Args:
            signature: one of this servable's.
            inputs: arrays of the signature's types and shapes by input name; those with a default may be left out.
            outputs: names of the outputs wanted, as `Signature.choose_outputs` gives them.

        Returns:
            The outputs by name.

        Raises:
            RequestError: an input is missing or unknown, or the graph failed (with TensorFlow's code and message).
        """
        arrays = signature.complete(inputs)
        names, call = self._callable(signature, outputs)
        try:
            values = call(*arrays)
        except tf.errors.OpError as error:
            raise RequestError(status_code(error.error_code), error.message) from None
        wanted = set(outputs)
        return {name: value for name, value in zip(names, values, strict=True) if name in wanted}

    def close(self) -> None:
        """Gives the memory back. No call may be under way."""
        self._callables.clear()
        self._session.close()
        # The graph and its operations refer to each other.
        self._session = None
        gc.collect()
        # glibc keeps freed pages for itself, tens of MB a swap.
        _LIBC.malloc_trim(0)

    def _callable(self, signature: Signature, outputs: Sequence[str]) -> tuple[Sequence[str], _Call]:
        """The compiled graph from the signature's inputs to the outputs, and the names of what it returns."""
        key = (signature.name, *outputs)
        call = self._callables.get(key)
        if call is not None:
            return outputs, call
        with self._lock:
            if len(self._callables) >= _MAX_CALLABLES:
                names = sorted(signature.outputs)
                return names, self._callables[(signature.name, *names)]
            options = CallableOptions(
                feed=[spec.tensor_name for spec in signature.inputs.values()],
                fetch=[signature.outputs[alias].tensor_name for alias in outputs],
            )
            # `Session.make_callable` with inputs goes through `Session.run` (0.1 ms of Python a request); this is
            # what tf_keras itself uses instead.
            call = self._callables[key] = self._session._make_callable_from_options(options)
        return outputs, call


def _returns_tensors(definition: SignatureDef) -> bool:
    """False for the loader's own entry (`__saved_model_init_op`), whose output is an operation."""
    return all(info.dtype for info in definition.outputs.values()) and bool(definition.outputs)


def _signature(name: str, definition: SignatureDef) -> Signature:
    return Signature(
        name=name,
        inputs={alias: tensor_spec(info) for alias, info in sorted(definition.inputs.items())},
        outputs={alias: tensor_spec(info) for alias, info in sorted(definition.outputs.items())},
        defaults={alias: tf.make_ndarray(proto) for alias, proto in definition.defaults.items()},
    )


def tensor_spec(info: TensorInfo) -> TensorSpec:
    """What a SignatureDef says of one tensor."""
    return TensorSpec(info.name, tf.dtypes.as_dtype(info.dtype), shape_of(info.tensor_shape))


def shape_of(shape: TensorShapeProto) -> tuple[int, ...] | None:
    """Sizes of the dimensions, -1 = any; None for a shape of unknown rank."""
    return None if shape.unknown_rank else tuple(dim.size for dim in shape.dim)
