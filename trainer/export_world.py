"""What all parts of an export read: data and trained models."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.answer_sizes import FilterSizes, Sizes
from trainer.candidate_head import CandidateHead, load_head
from trainer.config import ExportConfig
from trainer.data import Catalogue, Sequences, load_catalogue, load_sequences
from trainer.errors import ExportError
from trainer.ranker import Ranker, load_ranker
from trainer.retrieval import RetrievalModel, load_retrieval
from trainer.shortlist import new_places, unmet_rows
from transform.tables import EVENT_TYPES, FIRST, IMPRESSION, SEARCH


@dataclass(frozen=True)
class World:
    """Data, models, and how wide requests and answers are."""

    transform_dir: Path
    catalogue: Catalogue
    sequences: Sequences
    retrieval: RetrievalModel
    ranker: Ranker
    head: CandidateHead
    config: ExportConfig

    @property
    def sizes(self) -> Sizes:
        config = self.config
        length = self.ranker.config.history_length
        return Sizes(
            history=length,
            answer=config.k,
            candidates=config.candidates,
            exclusions=config.exclude_length,
            explained=config.explained_candidates,
            exclude_history=config.exclude_history,
            filters=FilterSizes(
                values=config.filter_values,
                allowed=config.allow_length,
                fetched=config.filter_neighbours,
                lists=config.lists,
                list_length=config.list_length,
                list_candidates=config.list_candidates,
            ),
            new=new_places(config.candidates, config.new_candidates, len(self.unmet)),
        )

    @property
    def event_types(self) -> dict[str, int]:
        """Name → number of the types that enter histories and that the data has."""
        met = np.unique(self.sequences.types)
        return {
            name: number for name, number in EVENT_TYPES.items() if number in met and number not in (IMPRESSION, SEARCH)
        }

    @property
    def unmet(self) -> np.ndarray:
        """Products that may be recommended and that training never met: int32 rows."""
        return unmet_rows(self.catalogue, self.catalogue.available)


def load_world(
    transform_dir: Path, retrieval_dir: Path, ranker_dir: Path, head_dir: Path, config: ExportConfig
) -> World:
    """Reads everything.

    Raises:
        ExportError: no product is available.
        ModelFilesError: a model is missing or was trained on other data.
    """
    catalogue = load_catalogue(transform_dir)
    if not catalogue.available[FIRST:].any():
        raise ExportError(
            f"{transform_dir}: none of the {catalogue.size - FIRST} products is available, so there is nothing to "
            "recommend. Check the column `available` of the items table."
        )
    return World(
        transform_dir,
        catalogue,
        load_sequences(transform_dir),
        load_retrieval(retrieval_dir, catalogue),
        load_ranker(ranker_dir, catalogue),
        load_head(head_dir, catalogue),
        config,
    )
