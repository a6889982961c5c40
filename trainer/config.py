"""What can be set for models, evaluation and export, with the defaults that are shipped."""

from dataclasses import field, replace
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from transform.tables import EVENT_TYPES, IMPRESSION, SEARCH

# Unknown keys are refused, values are checked on construction.
STRICT = ConfigDict(extra="forbid")
Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Decay = Literal["constant", "cosine", "linear"]
BaselineName = Literal["co_occurrence", "session_knn", "matrix_factorisation", "product2vec", "title_tfidf"]
Devices = Literal["one_device", "mirrored", "tpu"]
Precision = Literal["float32", "mixed_bfloat16", "mixed_float16"]
IndexKind = Literal["scann", "portable", "brute_force"]


@dataclass(frozen=True, config=STRICT)
class TrainingConfig:
    """The loop that both stages share."""

    epochs: Positive = 20
    # Windows of full length in a step; shorter windows come in proportionally larger batches. Small batches learn more
    # from an epoch: a step's cost grows with its windows.
    batch_size: Positive = 32
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    warmup_steps: Count = 100
    # After the warm-up; what falls reaches its final share at the end of the last of `epochs`, be it reached or not.
    learning_rate_decay: Decay = "constant"
    final_learning_rate_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    # Staged fine-tuning of what was trained before (warm_start, transfer): so many epochs the tables that read content
    # (words, n-grams, values) stay as they are, and afterwards move by this share of what the optimizer asks for.
    frozen_encoder_epochs: Count = 0
    encoder_rate: Annotated[float, Field(ge=0, le=1)] = 1.0
    # Longest gradient, as the global norm over all weights; a longer one is shortened to it. 0 = no limit.
    gradient_clip_norm: Annotated[float, Field(ge=0)] = 0.0
    # Validated, kept and exported are exponential moving averages of the weights with this decay; 0 = the weights.
    ema_decay: Share = 0.0
    # Epochs without a better validation NDCG@10 before training stops.
    patience: Positive = 3
    # Validation shoppers per epoch, drawn by a hash of the shopper; 0 = all.
    validation_users: Count = 5_000
    # Stops at the end of the epoch that passes this; 0 = no limit. Makes a run depend on the machine's speed.
    max_minutes: Annotated[float, Field(ge=0)] = 0.0
    # How batches meet devices: whole on one, or divided among several (of one machine, of a TPU).
    strategy: Devices = "one_device"
    # By TensorFlow's names ("GPU:0", "CPU:0"). None: TensorFlow's choice for one_device, every GPU for mirrored, the
    # TPU of this machine for tpu (or else the TPU's address).
    devices: tuple[str, ...] = ()
    # Devices among which the id embedding is divided, where one is too small for it; none = it is not.
    embedding_devices: tuple[str, ...] = ()
    # Of the heavy layers; weights are float32 in any case.
    precision: Precision = "float32"
    jit_compile: bool = False
    seed: Count = 1


@dataclass(frozen=True, config=STRICT)
class ItemEncoderConfig:
    """How products become vectors (trainer/item_encoder.py)."""

    dim: Positive = 64
    # How what is known of a product by its id and by each kind of content becomes one vector (trainer/fusion.py).
    fusion: Literal["gate", "concatenation", "cross_attention"] = "gate"
    # Share of products whose id and behaviour are hidden in a step, so that content alone learns to place them.
    id_dropout: Share = 0.1
    # Numbers that the n-grams of words share (trainer/text_encoder.py); 0 = words of the vocabulary only.
    ngram_buckets: Count = 8_192
    # Vectors of pictures and sentences are read without their category's mean as well: style apart from category
    # (trainer/class_means.py). Needs categories.
    subtract_class_means: bool = False


def _history_type(name: str) -> str:
    known = [known for known, number in EVENT_TYPES.items() if number not in (IMPRESSION, SEARCH)]
    if name not in known:
        raise ValueError(f"must be one of {', '.join(known)}")
    return name


HistoryType = Annotated[str, AfterValidator(_history_type)]


@dataclass(frozen=True, config=STRICT)
class TransferConfig:
    """What both trainings start from where there is a model of another shop, and no earlier one of this shop.

    Product ids and behaviour are always learned anew.
    """

    # Directory of a finished run; empty = nothing is taken over.
    run: str = ""
    # Words of titles and descriptions by their spelling, n-grams, and the layers that read texts.
    text: bool = True
    # The layers that read vectors of pictures (of the same encoder).
    picture: bool = False
    # Categories, brands and attributes by their names, and the layers that read them.
    attributes: bool = False
    # Everything else: fusion of the modalities, towers, transformer, context.
    network: bool = False


@dataclass(frozen=True, config=STRICT)
class TargetConfig:
    """Which interactions are training targets, and how much each counts; as shipped all count the same."""

    # The target of a slot is drawn from this many of the baskets (or single interactions) that follow it.
    baskets: Positive = 1
    # Event type → weight, as "purchase: 3"; types that are not named weigh 1.
    type_weights: dict[HistoryType, Annotated[float, Field(ge=0)]] = field(default_factory=dict)
    # Products clicked where few shoppers look count more (trainer/target_weights.py).
    inverse_propensity: bool = False
    # Clips the inverse propensity, as a multiple of that of the position looked at most.
    max_inverse_propensity: Annotated[float, Field(ge=1)] = 10.0


@dataclass(frozen=True, config=STRICT)
class RetrievalConfig(ItemEncoderConfig):
    """Two towers: history and context on one side, products on the other."""

    training: TrainingConfig = field(default_factory=TrainingConfig)
    targets: TargetConfig = field(default_factory=TargetConfig)
    history_length: Positive = 100
    heads: Positive = 4
    temperature: Annotated[float, Field(gt=0)] = 0.07
    # Positives per step, drawn from the positions of the batch's windows; they are each other's in-batch negatives.
    positives: Positive = 1_024
    uniform_negatives: Count = 1_024
    # Of each positive, mined anew before each epoch (trainer/hard_negatives.py); 0 = none.
    hard_negatives: Count = 0
    # First epoch that has them, from 1: before it, what the model would retrieve says little.
    hard_negatives_from: Positive = 2
    # First rank, from 0, and the rank after the last among the products that are no likely favourites of the shopper.
    hard_negative_ranks: tuple[Count, Positive] = (0, 100)
    # What scores (as a cosine) so much more than the positive is taken for a favourite.
    hard_negative_margin: Annotated[float, Field(ge=-2, le=2)] = 0.0
    # Positives of an epoch that get them, about: bounds the time that mining takes.
    mined_positions: Positive = 100_000
    dropout: Share = 0.1


@dataclass(frozen=True, config=STRICT)
class LossConfig:
    """What the ranker minimises."""

    # softmax: over the whole catalogue. The others: each target against negatives that all slots of a step share.
    name: Literal["softmax", "sampled_softmax", "gbce", "bce", "bpr"] = "softmax"
    # Of a step; softmax has none.
    negatives: Positive = 2_048
    # From all products, from the step's own targets, or half of each.
    negative_sampling: Literal["uniform", "in_batch", "mixed"] = "mixed"
    # Divides the scores.
    temperature: Annotated[float, Field(gt=0)] = 1.0
    # Calibration t of gBCE: 0 = binary cross-entropy, 1 = as if nothing were sampled.
    gbce_t: Annotated[float, Field(ge=0, le=1)] = 0.75
    # Added to a softmax, times the mean log popularity of what it recommends; 0 = none.
    popularity_penalty: Annotated[float, Field(ge=0)] = 0.0


@dataclass(frozen=True, config=STRICT)
class RankerConfig(ItemEncoderConfig):
    """Transformer over the newest interactions."""

    training: TrainingConfig = field(default_factory=TrainingConfig)
    targets: TargetConfig = field(default_factory=TargetConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    # SASRec's objective, or BERT4Rec's.
    objective: Literal["next_item", "masked_item"] = "next_item"
    # Masked item: share of a window's interactions that are masked, and of the windows whose newest alone is.
    mask_share: Share = 0.2
    mask_newest_share: Share = 0.1
    history_length: Positive = 100
    # Where in the history: distances bias the attention, or places are embedded (SASRec), or both.
    positions: tuple[Literal["relative", "absolute"], ...] = ("relative",)
    # Times between interactions bias the attention, where the data has a clock.
    time_bias: bool = True
    blocks: Positive = 2
    heads: Positive = 2
    dropout: Share = 0.2
    # Products met before: what each gains or loses by it is learned, or (where nobody takes a product twice and seen
    # products are never answered) they are no rivals of the target in the loss and gain nothing.
    repeats: Literal["learned", "excluded"] = "learned"
    # Where the loss is a softmax: over the whole catalogue up to this many products, over sampled negatives above.
    full_softmax_limit: Count = 50_000

    def loss_of(self, catalogue_size: int) -> LossConfig:
        """The loss for a catalogue: a softmax over one beyond the limit is sampled."""
        if self.loss.name == "softmax" and catalogue_size > self.full_softmax_limit:
            return replace(self.loss, name="sampled_softmax")
        return self.loss


Part = Literal["retrieval", "history", "attention", "popularity", "age", "price", "shopper", "context"]


@dataclass(frozen=True, config=STRICT)
class HeadConfig:
    """The candidate head of stage two, trained on the validation span."""

    # What it may read beside the ranker's score, where the data has it; none = candidates in the ranker's order.
    parts: tuple[Part, ...] = (
        "retrieval",
        "history",
        "attention",
        "popularity",
        "age",
        "price",
        "shopper",
        "context",
    )
    hidden: Positive = 16
    # Steps of one fit, and lists of candidates in a step.
    steps: Positive = 300
    batch_size: Positive = 32
    learning_rate: Annotated[float, Field(gt=0)] = 1e-2
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    # What the validation span is asked: each shopper once, where the span begins (as by the evaluation's headline),
    # or each of its baskets (or single interactions) at its own time. Only the latter shows the head products that were
    # listed after the training span; it needs a time split.
    questions: Literal["cut_off", "rolling"] = "cut_off"
    # Share of the validation NDCG@10 that may be given up for products that training never met: their scores get the
    # largest bonus that costs no more; 0 = none.
    new_product_tolerance: Share = 0.0
    # Groups that a hash divides the shoppers into; each is judged by a head that was fitted to the others.
    folds: Annotated[int, Field(ge=2)] = 3
    # Validation shoppers, drawn by a hash; 0 = all.
    validation_users: Count = 4_000
    # Lists of candidates, drawn evenly from all: bounds memory where shoppers are asked often.
    lists: Positive = 20_000
    seed: Count = 1


@dataclass(frozen=True, config=STRICT)
class EvaluationConfig:
    """Held-out future against the whole catalogue."""

    # Types whose later events are the truth; empty = every type that enters histories.
    target_types: tuple[str, ...] = ()
    # The headline protocol; a time split reports both.
    exclude_seen: bool = False
    cutoffs: tuple[int, ...] = (6, 10, 20, 100)
    # Candidates that stage one hands to stage two, and how many of them are products that training never met: fewer
    # where there are fewer, and at most a quarter.
    candidates: Positive = 200
    new_candidates: Count = 20
    bootstrap_samples: Positive = 1_000
    # What runs beside recent popularity, which always does: it answers where another baseline knows nothing.
    # title_tfidf only where products have titles.
    baselines: tuple[BaselineName, ...] = (
        "co_occurrence",
        "session_knn",
        "matrix_factorisation",
        "product2vec",
        "title_tfidf",
    )
    # Validation shoppers that choose the baselines' settings, drawn by a hash.
    baseline_shoppers: Positive = 1_000
    # Days of training data that the recent-popularity baseline counts (chosen on validation among these).
    popularity_days: tuple[int, ...] = (1, 3, 7, 30, 90)
    # Shoppers in the rolling next-event table, drawn by a hash; 0 = no table.
    rolling_users: Count = 2_000
    # Shoppers whose first recommendation is explained, drawn by a hash, and the points at which gradients are taken.
    explained_users: Positive = 200
    explanation_steps: Positive = 32
    seed: Count = 1


@dataclass(frozen=True, config=STRICT)
class ExportConfig:
    """SavedModels and their index."""

    # scann: fastest, for servers that have ScaNN's ops; portable: in stock ops; brute_force: exact, in stock ops; both:
    # scann as the model `recommender`, portable as `recommender_portable`.
    index: IndexKind | Literal["both"] = "scann"
    # How the portable index stores vectors; rounded ones take less memory and are scored exactly once they are few.
    portable_storage: Literal["float32", "bfloat16", "int8"] = "float32"
    # K, C and X of the signatures (L is the ranker's history_length).
    k: Positive = 100
    candidates: Positive = 200
    # As `evaluation.new_candidates`.
    new_candidates: Count = 20
    exclude_length: Positive = 100
    # Whether products of the history are left out of the answer.
    exclude_history: bool = False
    # Filters: categories and brands that one may name (F), products of an allow-list (A), and neighbours that the index
    # is asked for where it is expected to return enough that pass.
    filter_values: Positive = 8
    allow_length: Positive = 500
    filter_neighbours: Positive = 4_000
    # `recommend_lists`: lists of a page (N), products of each, and candidates that each is chosen from.
    lists: Positive = 8
    list_length: Positive = 20
    list_candidates: Positive = 60
    # Of `similar_items`: neighbours by behaviour that are kept of each product (0 = none), their weight beside the
    # likeness of vectors, and the weight of the shopper's vector where a history is given.
    neighbours: Count = 20
    similar_behaviour_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    history_share: Annotated[float, Field(ge=0, le=1)] = 0.3
    # Whether `complementary_items` is exported: its index takes as much memory as that of stage one.
    complementary: bool = True
    complementary_behaviour_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    # Candidates that `explain` takes, and the points at which it takes gradients.
    explained_candidates: Positive = 10
    explanation_steps: Positive = 32
    # Held-out shoppers whose embeddings measure index recall.
    recall_queries: Positive = 1_000


@dataclass(frozen=True, config=STRICT)
class ContentConfig:
    """Vectors of pictures and sentences that the catalogue carries (feature kind VECTOR)."""

    # A pre-trained backbone in place of the one trained here: a SavedModel folder (as TF Hub's) or a .keras file that
    # maps float pixels [B, image_height, image_width, 3] in [0, 1] to [B, d]. It is run, never trained.
    image_encoder: str | None = None
    # A pre-trained sentence encoder, a SavedModel folder that maps strings [B] to [B, d]: titles get a vector more.
    text_encoder: str | None = None
    image_height: Annotated[int, Field(ge=16)] = 64
    image_width: Annotated[int, Field(ge=16)] = 48
    # Numbers of a picture's vector where the encoder is trained here.
    image_dim: Positive = 64
    # Products with a picture that the encoder learns from at most, drawn by a hash; bounds time and memory.
    products: Positive = 50_000
    epochs: Positive = 8
    # Epochs without a better held-out loss before the training stops.
    patience: Positive = 3
    batch_size: Annotated[int, Field(ge=2)] = 128
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    # Of the cross-entropy on the leaf category, and of the contrast between picture and title.
    category_weight: Annotated[float, Field(ge=0)] = 1.0
    contrast_weight: Annotated[float, Field(ge=0)] = 0.5
    seed: Count = 1
