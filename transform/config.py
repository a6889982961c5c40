"""What can be set for the data steps, with the defaults that are shipped."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class SplitConfig:
    """Where the future begins. Validation chooses, test reports."""

    method: Literal["time", "leave_one_out"] = "time"
    # ISO dates ("2011-10-01", UTC). Without them the last shares of the interactions, in time order, are held out.
    validation_start: str | None = None
    test_start: str | None = None
    validation_share: float = 0.1
    test_share: float = 0.1


@dataclass(frozen=True)
class BeamConfig:
    """Handed to Apache Beam as it is: any runner, any of its options."""

    # "FnApiRunner" is the local runner, named explicitly: "DirectRunner" tries to download another one first.
    runner: str = "FnApiRunner"
    # For example ["--direct_num_workers=2"]; for a cluster its own options.
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class TransformConfig:
    """Raw tables to TFRecords."""

    split: SplitConfig = field(default_factory=SplitConfig)
    beam: BeamConfig = field(default_factory=BeamConfig)
    # Types that enter histories, by name; impressions and searches never do.
    history_types: tuple[str, ...] = ("view", "click", "add_to_cart", "purchase")
    session_gap_minutes: int = 30
    # Interactions in the training span that give a product an id embedding of its own.
    min_item_count: int = 2
    # The run stops if a larger share of the rows is bad.
    max_bad_share: float = 0.01
    # Events later than now plus this are bad (a clock a little ahead is not).
    max_future_hours: int = 24
    # Groups of shoppers; memory is bounded by the largest.
    buckets: int = 16
    title_vocabulary_size: int = 20_000
    title_length: int = 16
    category_depth: int = 4
    attributes_length: int = 8
    # Values seen less often in the catalogue share the out-of-vocabulary id.
    min_value_count: int = 2
    # Shopper-hashed sample of events for TFDV, per span.
    sample_events: int = 50_000


@dataclass(frozen=True)
class ValidateConfig:
    """TensorFlow Data Validation over the transform's output."""

    # Folder of the reviewed schema (events.pbtxt, items.pbtxt). None: RUN/schema, inferred on the first run and kept.
    schema: str | None = None
    # L-infinity distance of categorical features between training and later spans that stops the run.
    max_drift: float = 0.5
