"""How much each interaction counts as a training target: by the type of its event, and against position bias.

Inverse propensity weighting (Joachims, Swaminathan and Schnabel, WSDM 2017): a product clicked where one shopper in
five looks stands for five shoppers to whom it was as relevant. The weights act on the loss alone. No model reads a
position, so that nothing has to be made up when a recommendation is asked for.

Off as shipped. In the simulated shop, where what is clicked does not depend on where it stood, the weights are noise:
they are worth 14 % of the targets, and a first-order transition model's validation NDCG@10 falls from 0.237 to 0.231.
They are for shops whose lists put products in the way of shoppers; validation says whether a shop is one.
"""

from pathlib import Path

import numpy as np

from trainer.config import TargetConfig
from trainer.data import Sequences
from trainer.propensity import Propensities, estimate_propensities, load_position_counts
from transform.tables import EVENT_TYPES

# Groups within which inverse propensities are comparable: each surface (its id), what the shop logged, and the rest.
_LOGGED, _UNKNOWN = -1, -2


def load_target_weights(transform_dir: Path, sequences: Sequences, config: TargetConfig) -> np.ndarray:
    """`target_weights` by propensities estimated from what `tandem transform` counted, where they are asked for.

    Raises:
        FileNotFoundError: inverse propensities are asked for and the counts are not there.
        ValueError: as `target_weights`.
    """
    if not config.inverse_propensity:
        return target_weights(sequences, config, None)
    return target_weights(sequences, config, estimate_propensities(load_position_counts(transform_dir)))


def target_weights(sequences: Sequences, config: TargetConfig, propensities: Propensities | None) -> np.ndarray:
    """Weight of each interaction as a target: float32 [N], of mean 1 over the training span.

    The weight of its strongest event's type times its inverse propensity. Interactions that are held out weigh 1 and
    have no part in the mean.

    Args:
        sequences: all interactions.
        config: what counts.
        propensities: of the shop's surfaces, read if `config.inverse_propensity`; None = the shop has no estimate.

    Raises:
        ValueError: inverse propensities are asked for and no training interaction has a propensity, or every training
            interaction is of a type that weighs nothing.
    """
    training = training_interactions(sequences)
    of_type = np.ones(max(EVENT_TYPES.values()) + 1)
    for name, weight in config.type_weights.items():
        of_type[EVENT_TYPES[name]] = weight
    weights = of_type[sequences.types[training]]
    if config.inverse_propensity:
        weights = weights * _inverse_propensities(sequences, training, config, propensities)
    if not weights.any():
        raise ValueError(
            f"type_weights: no training interaction is of a type with a weight above 0, received {config.type_weights}."
        )
    found = np.ones(len(training), np.float32)
    found[training] = weights / weights.mean()
    return found


def training_interactions(sequences: Sequences) -> np.ndarray:
    """Whether each interaction belongs to the training span: bool [N]."""
    place = np.arange(len(sequences.rows)) - np.repeat(sequences.offsets[:-1], sequences.lengths)
    return place < np.repeat(sequences.train_end, sequences.lengths)


def _inverse_propensities(
    sequences: Sequences, training: np.ndarray, config: TargetConfig, propensities: Propensities | None
) -> np.ndarray:
    """Inverse propensities of the training interactions, clipped, of mean 1 in each group: float64 [M].

    What the shop logged comes before what was estimated. Interactions whose propensity is unknown weigh 1: on average
    they count as much as those whose propensity is known.
    """
    logged = sequences.propensities[training].astype(np.float64)
    surfaces, positions = sequences.surfaces[training], sequences.positions[training]
    estimated = np.full(len(logged), np.nan) if propensities is None else propensities.of(surfaces, positions)
    values = np.where(np.isnan(logged), estimated, logged)
    group = np.where(np.isnan(logged), np.where(np.isnan(values), _UNKNOWN, surfaces), _LOGGED)
    if (group == _UNKNOWN).all():
        raise ValueError(
            "inverse_propensity: no training interaction has a propensity: the events have neither impressions and "
            "clicks with a position nor an attribute `propensity`. Import them, or set inverse_propensity to false."
        )
    weights = np.ones(len(values))
    for known in np.unique(group[group != _UNKNOWN]):
        own = group == known
        inverse = np.minimum(values[own].max() / values[own], config.max_inverse_propensity)
        weights[own] = inverse / inverse.mean()
    return weights
