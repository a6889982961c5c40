"""What can be set for the data steps, with the defaults that are shipped."""

from dataclasses import field
from typing import Annotated, Literal, get_args

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

# Unknown keys are refused, values are checked on construction.
STRICT = ConfigDict(extra="forbid")
Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Limit = Annotated[float, Field(ge=0)]
# What a product's content is made of; "image" stands for the vectors of its picture.
Content = Literal["category", "brand", "attributes", "price", "title", "description", "image"]

Context = Literal["device", "region", "hour", "weekday"]


@dataclass(frozen=True, config=STRICT)
class SplitConfig:
    """Where the future begins. Validation chooses, test reports."""

    method: Literal["time", "leave_one_out"] = "time"
    # ISO dates ("2011-10-01", UTC). Without them so many of the newest days (UTC) are each span; without these, the
    # last shares of the interactions in time order.
    validation_start: str | None = None
    test_start: str | None = None
    validation_days: Positive | None = None
    test_days: Positive | None = None
    validation_share: Share = 0.1
    test_share: Share = 0.1


@dataclass(frozen=True, config=STRICT)
class BeamConfig:
    """Handed to Apache Beam as it is: any runner, any of its options."""

    # "FnApiRunner" is the local runner, named explicitly: "DirectRunner" tries to download another one first.
    runner: str = "FnApiRunner"
    # For example ["--direct_num_workers=2"]; for a cluster its own options.
    options: tuple[str, ...] = ()


@dataclass(frozen=True, config=STRICT)
class TransformConfig:
    """Raw tables to TFRecords."""

    split: SplitConfig = field(default_factory=SplitConfig)
    beam: BeamConfig = field(default_factory=BeamConfig)
    # Events of so many of the newest days (UTC) count, older ones are left out; None: all. What shoppers did before,
    # and when a product without `created_at` was first seen, is then forgotten.
    window_days: Positive | None = None
    # Whether the checked events of each file (or folder below events/) are kept in the run, so that the next transform
    # reads only what is new; the result is the same. None: if any is named by its day (events/2026-11-20.parquet,
    # events/day=2026-11-20/…).
    incremental: bool | None = None
    # Events of so many days before the one that their file is named by are still taken, those that come later are left
    # out; None: none is.
    late_days: Count | None = None
    # Types that enter histories, by name; impressions and searches never do.
    history_types: tuple[str, ...] = ("view", "click", "add_to_cart", "purchase")
    session_gap_minutes: Positive = 30
    # Types of events that begin a session whatever the time since the last, such as "search"; where the shop names its
    # sessions, those stand.
    session_resets: tuple[str, ...] = ()
    # Of interactions: longer sessions are divided, shorter ones left out; 0 = no limit.
    max_session_length: Count = 0
    min_session_length: Count = 0
    # Views and clicks that the next event follows sooner are left out of histories; 0 = all enter.
    min_dwell_seconds: Count = 0
    # Whoever has more events within 24 hours is a robot and left out; 0 = nobody.
    max_daily_events: Count = 5_000
    # Interactions in the training span that give a product an id embedding of its own.
    min_item_count: Count = 2
    # The run stops if a larger share of the rows is bad.
    max_bad_share: Share = 0.01
    # Events later than now plus this are bad (a clock a little ahead is not).
    max_future_hours: Count = 24
    # Groups of shoppers, by a hash: memory is bounded by the largest, and each is one file of sequences. None: as many
    # as the events ask for (transform/beam_transform.py).
    buckets: Positive | None = None
    # Of a shopper with more events the newest are kept. Nobody looks at so much: it is a crawler, a till, or one name
    # for all who are not signed in.
    max_events_per_shopper: Positive = 100_000
    # Of the columns that the catalogue has, those that become features of the models; none = product ids only.
    content_features: tuple[Content, ...] = get_args(Content)
    # Whether what shoppers did with a product in the training span is one as well.
    behaviour_feature: bool = False
    # What models read of a request: columns of the events, and hour and weekday (UTC) of its time.
    context_features: tuple[Context, ...] = ("device", "region", "hour")
    # Words of a title and of a description that are read; each has a vocabulary of its own.
    title_length: Positive = 16
    description_length: Positive = 32
    category_depth: Positive = 4
    attributes_length: Positive = 8
    # Prices become one more feature, price_bucket: so many parts of about as many products each, fewer where many have
    # the same price; 0 = none.
    price_buckets: Count = 0
    # Features of products that are read together, as one more feature each: [[brand, category], [category,
    # price_bucket]] makes brand_x_category and category_x_price_bucket. A category is its whole path.
    crosses: tuple[tuple[str, ...], ...] = ()
    # Values seen less often, in the catalogue or among the requests of the training span, are out of vocabulary.
    min_value_count: Positive = 2
    # Of a feature, the most frequent values that get ids of their own: {brand: 5000, region: 200}. Without an entry
    # 20,000 words of titles and of descriptions, of other features all that are frequent enough.
    max_values: dict[str, Positive] = field(default_factory=dict)
    # Of a feature, the ids that its values out of vocabulary share by a stable hash: {brand: 32}. Without an entry, or
    # with 0, all of them have the one unknown id.
    oov_buckets: dict[str, Count] = field(default_factory=dict)
    # Pictures above either are left out: bytes, and pixels of the longer side.
    max_image_bytes: Positive = 4 * 2**20
    max_image_side: Positive = 4_096
    # Shopper-hashed sample of events for TFDV, per span.
    sample_events: Positive = 50_000
    # And of each of the newest days, of all its events.
    sample_day_events: Positive = 5_000


Severity = Literal["stop", "warn", "off"]


@dataclass(frozen=True, config=STRICT)
class ValidateConfig:
    """TensorFlow Data Validation over the transform's output, and what is compared with the last blessed run."""

    # Folder of the reviewed schema (events.pbtxt, items.pbtxt). None: RUN/schema, inferred on the first run and kept.
    schema: str | None = None
    # Run folder whose blessed statistics (RUN/baseline) are compared with. None: those of the run itself, if any.
    baseline: str | None = None
    # Of a rule of transform/findings.py, where it differs from what is shipped there.
    severity: dict[str, Severity] = field(default_factory=dict)
    # L-infinity distance of categorical features between training and later spans that stops the run.
    max_drift: Limit = 0.5
    # The same from the last blessed run, by span, slice and day; Jensen-Shannon divergence (base 2) of numbers.
    max_change: Limit = 0.25
    max_divergence: Limit = 0.2
    # Change that does not stop a run but makes `tandem validate --retrain-status` ask for a training.
    retrain_change: Limit = 0.1
    # Without a blessed run, the newest days that are compared with those before; findings about them warn.
    newest_days: Positive = 7
    # Events of a day, of a type or of a slice, fewer or more than usual; also of returning shoppers.
    max_volume_change: Share = 0.4
    # Jensen-Shannon divergence of a day's events by hour from the usual.
    max_hour_change: Limit = 0.05
    # Added shares of a day's events: missing values, values never seen, repeated rows, rejected rows.
    max_missing_change: Limit = 0.1
    max_new_values: Limit = 0.1
    max_duplicates: Limit = 0.05
    max_rejected: Limit = 0.02
    # Of one shopper, of those far above the usual, and in sessions that several share.
    max_shopper_share: Limit = 0.1
    # Products that the catalogue may lose or that may get other ids since the last blessed run.
    max_catalogue_loss: Share = 0.3
    # Difference between training examples and logged requests, and requests' products that nobody knows.
    max_skew: Limit = 0.25
    max_unknown_products: Limit = 0.2
    # Products, and events of the newest days, whose statistics are taken, evenly drawn; of a slice a quarter.
    sample_items: Positive = 50_000
    sample_events: Positive = 20_000
