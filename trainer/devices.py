"""Devices and precision of a training, refused before it starts where they are not there or do not go together.

The model must be made within the strategy:

    strategy = make_strategy(config)
    with strategy.scope():
        model = …
"""

from collections.abc import Sequence

import tensorflow as tf
import tf_keras

from trainer.config import TrainingConfig
from trainer.errors import TrainingError
from trainer.sharded_embedding import ShardedEmbedding


def make_strategy(config: TrainingConfig) -> tf.distribute.Strategy:
    """The `tf.distribute` strategy that a configuration asks for.

    Raises:
        TrainingError: a device is not there, or the options do not go together.
    """
    _check_options(config)
    _check_present("training.embedding_devices", config.embedding_devices)
    if config.strategy == "tpu":
        return _tpu_strategy(config.devices)
    _check_present("training.devices", config.devices)
    if config.strategy == "one_device":
        return tf.distribute.OneDeviceStrategy(config.devices[0]) if config.devices else tf.distribute.get_strategy()
    devices = config.devices or tuple(name for name in present_devices() if name.startswith("GPU"))
    if not devices:
        raise TrainingError(
            "training.strategy = 'mirrored' divides batches among all GPUs where training.devices names none, "
            f"and there is no GPU; there is {', '.join(present_devices())}. Name devices, or use 'one_device'."
        )
    if config.batch_size % len(devices):
        raise TrainingError(
            "training.batch_size must be divisible by the number of devices, "
            f"received batch_size = {config.batch_size} for {', '.join(devices)}."
        )
    return tf.distribute.MirroredStrategy(list(devices))


def precision_policy(config: TrainingConfig) -> tf_keras.mixed_precision.Policy:
    """`dtype` of the layers that do the heavy work.

    Their weights stay float32 and they compute in the precision asked for; what is left without it (embeddings, norms
    of the output, losses) computes in float32.
    """
    return tf_keras.mixed_precision.Policy(config.precision)


def check_model(model: tf_keras.Model, config: TrainingConfig) -> None:
    """Refuses a model that was not made as its configuration says.

    Raises:
        TrainingError: it was made outside the strategy, no layer has the precision, no table is divided, or its loss
            cannot be.
    """
    strategy = model.distribute_strategy
    expected = {"mirrored": tf.distribute.MirroredStrategy, "tpu": tf.distribute.TPUStrategy}.get(config.strategy)
    if expected is None and config.devices:
        expected = tf.distribute.OneDeviceStrategy
    if expected is not None and not isinstance(strategy, expected):
        raise TrainingError(
            f"training.strategy = {config.strategy!r} with devices = {config.devices!r} needs a model that was made "
            f"within the strategy, received {type(model).__name__} made within {type(strategy).__name__}: "
            "it trains on one device only."
        )
    if strategy.num_replicas_in_sync > 1 and not hasattr(model, "loss_weight"):
        raise TrainingError(
            f"training.strategy = {config.strategy!r} divides batches among devices, and {type(model).__name__} has no "
            "`loss_weight`, without which the parts of its loss cannot be put together: it trains on one device only."
        )
    _check_layers(model, config)


def present_devices() -> list[str]:
    """Names of all devices, as "CPU:0" or "GPU:1"."""
    return [device.name.rpartition("device:")[2] for device in tf.config.list_logical_devices()]


def _check_options(config: TrainingConfig) -> None:
    problem = None
    if config.strategy == "one_device" and len(config.devices) > 1:
        problem = f"training.strategy = 'one_device' takes one device, received devices = {config.devices!r}"
    elif config.strategy == "tpu" and config.precision == "mixed_float16":
        problem = "a TPU has no float16: use training.precision = 'mixed_bfloat16', received 'mixed_float16'"
    elif len(config.embedding_devices) == 1:
        problem = f"training.embedding_devices must be none or several, received {config.embedding_devices!r}"
    elif config.embedding_devices and config.strategy != "one_device":
        problem = f"training.embedding_devices goes with strategy = 'one_device' only, received {config.strategy!r}"
    elif config.embedding_devices and config.jit_compile:
        problem = "training.embedding_devices does not go with jit_compile = true: XLA compiles for one device"
    if problem is not None:
        raise TrainingError(f"{problem}.")


def _check_present(key: str, devices: Sequence[str]) -> None:
    there = present_devices()
    absent = [name for name in devices if name not in there]
    if absent:
        raise TrainingError(f"{key} names {', '.join(absent)}, and there is only {', '.join(there)}.")
    if len(set(devices)) < len(devices):
        raise TrainingError(f"{key} names a device twice, received {tuple(devices)!r}.")


def _check_layers(model: tf_keras.Model, config: TrainingConfig) -> None:
    layers = [module for module in model.submodules if isinstance(module, tf_keras.layers.Layer)]
    if config.precision != "float32" and not any(layer.dtype_policy.name == config.precision for layer in layers):
        raise TrainingError(
            f"training.precision = {config.precision!r}, and no layer of {type(model).__name__} computes in it: "
            "it trains in float32 only."
        )
    if config.embedding_devices and not any(isinstance(layer, ShardedEmbedding) for layer in layers):
        raise TrainingError(
            f"training.embedding_devices = {config.embedding_devices!r}, and {type(model).__name__} has no table that "
            "is divided among them: it keeps its tables whole."
        )


def _tpu_strategy(address: Sequence[str]) -> tf.distribute.Strategy:
    """`address`: none = the TPU of this machine."""
    if len(address) > 1:
        raise TrainingError(f"training.strategy = 'tpu' takes one address in devices, received {tuple(address)!r}.")
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=address[0] if address else "local")
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, RuntimeError, tf.errors.OpError) as error:
        raise TrainingError(
            f"training.strategy = 'tpu', and there is no TPU at {address[0] if address else 'this machine'}; there is "
            f"{', '.join(present_devices())}. TensorFlow says: {str(error).splitlines()[0]}"
        ) from error
    return tf.distribute.TPUStrategy(resolver)
