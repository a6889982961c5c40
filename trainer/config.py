"""What can be set for models, evaluation and export, with the defaults that are shipped."""

from dataclasses import field
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

# Unknown keys are refused, values are checked on construction.
STRICT = ConfigDict(extra="forbid")
Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Decay = Literal["constant", "cosine", "linear"]


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
    jit_compile: bool = False
    seed: Count = 1


@dataclass(frozen=True, config=STRICT)
class RetrievalConfig:
    """Two towers: history and context on one side, products on the other."""

    training: TrainingConfig = field(default_factory=TrainingConfig)
    dim: Positive = 64
    history_length: Positive = 100
    heads: Positive = 4
    temperature: Annotated[float, Field(gt=0)] = 0.07
    # Positives per step, drawn from the positions of the batch's windows; they are each other's in-batch negatives.
    positives: Positive = 1_024
    uniform_negatives: Count = 1_024
    # Share of products whose id embedding is hidden in a step, so that content alone learns to place them.
    id_dropout: Share = 0.1
    dropout: Share = 0.1


@dataclass(frozen=True, config=STRICT)
class RankerConfig:
    """Causal transformer over the newest interactions (SASRec)."""

    training: TrainingConfig = field(default_factory=TrainingConfig)
    dim: Positive = 64
    history_length: Positive = 100
    blocks: Positive = 2
    heads: Positive = 2
    dropout: Share = 0.2
    id_dropout: Share = 0.1
    # Softmax over the whole catalogue up to this many products, over sampled negatives above.
    full_softmax_limit: Count = 50_000
    sampled_negatives: Positive = 2_048


@dataclass(frozen=True, config=STRICT)
class EvaluationConfig:
    """Held-out future against the whole catalogue."""

    # Types whose later events are the truth; empty = every type that enters histories.
    target_types: tuple[str, ...] = ()
    # The headline protocol; a time split reports both.
    exclude_seen: bool = False
    cutoffs: tuple[int, ...] = (6, 10, 20, 100)
    # Candidates that stage one hands to stage two.
    candidates: Positive = 200
    bootstrap_samples: Positive = 1_000
    # Days of training data that the recent-popularity baseline counts (chosen on validation among these).
    popularity_days: tuple[int, ...] = (1, 3, 7, 30, 90)
    # Shoppers in the rolling next-event table, drawn by a hash; 0 = no table.
    rolling_users: Count = 2_000
    seed: Count = 1


@dataclass(frozen=True, config=STRICT)
class ExportConfig:
    """SavedModels and their index."""

    index: Literal["scann", "brute_force"] = "scann"
    # K, C and X of the signatures (L is the ranker's history_length).
    k: Positive = 100
    candidates: Positive = 200
    exclude_length: Positive = 100
    # Whether products of the history are left out of the answer.
    exclude_history: bool = False
    # Held-out shoppers whose embeddings measure index recall.
    recall_queries: Positive = 1_000
