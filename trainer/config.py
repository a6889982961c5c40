"""What can be set for models, evaluation and export, with the defaults that are shipped."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class TrainingConfig:
    """The loop that both stages share."""

    epochs: int = 20
    batch_size: int = 128
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    weight_decay: float = 0.0
    # Epochs without a better validation NDCG@10 before training stops.
    patience: int = 3
    # Validation shoppers per epoch, drawn by a hash of the shopper; 0 = all.
    validation_users: int = 5_000
    # Stops at the end of the epoch that passes this; 0 = no limit. Makes a run depend on the machine's speed.
    max_minutes: float = 0.0
    jit_compile: bool = False
    seed: int = 1


@dataclass(frozen=True)
class RetrievalConfig:
    """Two towers: history and context on one side, products on the other."""

    training: TrainingConfig = field(default_factory=TrainingConfig)
    dim: int = 64
    history_length: int = 100
    heads: int = 4
    temperature: float = 0.07
    # Positives per step, drawn from the positions of the batch's windows; they are each other's in-batch negatives.
    positives: int = 1_024
    uniform_negatives: int = 1_024
    # Share of products whose id embedding is hidden in a step, so that content alone learns to place them.
    id_dropout: float = 0.1
    dropout: float = 0.1


@dataclass(frozen=True)
class RankerConfig:
    """Causal transformer over the newest interactions (SASRec)."""

    training: TrainingConfig = field(default_factory=TrainingConfig)
    dim: int = 64
    history_length: int = 100
    blocks: int = 2
    heads: int = 2
    dropout: float = 0.2
    id_dropout: float = 0.1
    # Softmax over the whole catalogue up to this many products, over sampled negatives above.
    full_softmax_limit: int = 50_000
    sampled_negatives: int = 2_048


@dataclass(frozen=True)
class EvaluationConfig:
    """Held-out future against the whole catalogue."""

    # Types whose later events are the truth; empty = every type that enters histories.
    target_types: tuple[str, ...] = ()
    # The headline protocol; a time split reports both.
    exclude_seen: bool = False
    cutoffs: tuple[int, ...] = (6, 10, 20, 100)
    # Candidates that stage one hands to stage two.
    candidates: int = 200
    bootstrap_samples: int = 1_000
    # Days of training data that the recent-popularity baseline counts (chosen on validation among these).
    popularity_days: tuple[int, ...] = (1, 3, 7, 30, 90)
    # Shoppers in the rolling next-event table, drawn by a hash; 0 = no table.
    rolling_users: int = 2_000
    seed: int = 1


@dataclass(frozen=True)
class ExportConfig:
    """SavedModels and their index."""

    # "scann" or "brute_force".
    index: str = "scann"
    # K, C and X of the signatures (L is the ranker's history_length).
    k: int = 100
    candidates: int = 200
    exclude_length: int = 100
    # Whether products of the history are left out of the answer.
    exclude_history: bool = False
    # Held-out shoppers whose embeddings measure index recall.
    recall_queries: int = 1_000
