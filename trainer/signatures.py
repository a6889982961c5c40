"""Named inputs and outputs for exported graphs."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

import tensorflow as tf

Tensors = dict[str, tf.Tensor]
Function: TypeAlias = tf.types.experimental.PolymorphicFunction
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Untracked(Generic[_Value]):
    """Hides models from TensorFlow's tracking, which would save all of their weights."""

    value: _Value


def signature(
    function: Callable[..., Tensors], required: Mapping[str, tf.TensorSpec], optional: Mapping[str, tf.Tensor]
) -> Function:
    """A tf.function with named inputs.

    `function` is traced once, here, and called as a whole by whatever traces the signature: TensorFlow does so again
    when it saves it, which would take as long as the first time.

    Args:
        function: takes the inputs by name.
        required: name → shape and type.
        optional: name → default of batch size 1, which `tf.saved_model.save` writes to SignatureDef.defaults.
    """
    names = [*required, *optional]
    parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in required]
    parameters += [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default)
        for name, default in optional.items()
    ]
    specs = [tf.TensorSpec(spec.shape, spec.dtype, name) for name, spec in required.items()]
    specs += [tf.TensorSpec([None, *default.shape[1:]], default.dtype, name) for name, default in optional.items()]

    def body(*values: tf.Tensor) -> Tensors:
        return function(**dict(zip(names, values, strict=True)))

    traced = tf.function(body, input_signature=specs, autograph=False).get_concrete_function()

    def named(*values: tf.Tensor) -> Tensors:
        return traced(*values)

    # TensorFlow reads names and defaults of inputs from the signature of the Python function.
    named.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    body.__name__ = named.__name__ = function.__name__
    return tf.function(named, input_signature=specs, autograph=False)


def read_weights(functions: Mapping[str, Function]) -> list[tf.Variable]:
    """The variables that any of the functions reads: what a SavedModel of them must hold, and no more."""
    groups = [function.get_concrete_function().graph.variables for function in functions.values()]
    return list({id(variable): variable for group in groups for variable in group}.values())


def whole_batch(inputs: Mapping[str, tf.Tensor], size: tf.Tensor) -> Tensors:
    """Inputs of batch size `size`; one of batch size 1, such as a default, is repeated."""
    return {name: tf.broadcast_to(value, tf.concat([[size], tf.shape(value)[1:]], 0)) for name, value in inputs.items()}
