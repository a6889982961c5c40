"""Linear layers that have their weights from the start."""

import tf_keras


def dense(units: int, width: int, name: str, activation: str | None = None) -> tf_keras.layers.Dense:
    """A layer from `width` to `units` numbers."""
    layer = tf_keras.layers.Dense(units, activation=activation, name=name)
    layer.build((None, width))
    return layer
