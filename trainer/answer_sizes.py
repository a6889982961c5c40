"""Widths of inputs and answers, fixed at export."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FilterSizes:
    """Of requests that restrict what may be answered."""

    values: int  # F, categories and brands of a filter
    allowed: int  # A, products of an allow-list
    fetched: int  # neighbours that the index is asked for on behalf of a filter
    lists: int  # N, lists of a page
    list_length: int  # products of each
    list_candidates: int  # candidates that each is chosen from


@dataclass(frozen=True)
class Sizes:
    """Of all requests.

    Raises:
        ValueError: an answer is longer than what it is chosen from.
    """

    history: int  # L
    answer: int  # K
    candidates: int  # C
    exclusions: int  # X
    explained: int  # C', candidates that `explain` takes
    # Whether products of the history are left out of answers.
    exclude_history: bool
    filters: FilterSizes
    new: int = 0  # places among the candidates for products that training never met

    def __post_init__(self) -> None:
        longer = (
            ("k", self.answer, "candidates", self.candidates),
            ("list_length", self.filters.list_length, "list_candidates", self.filters.list_candidates),
        )
        for name, value, limit_name, limit in longer:
            if value > limit:
                raise ValueError(
                    f"export.{name} must not exceed export.{limit_name} ({limit}), received {value}: "
                    f"an answer is chosen among the candidates. Lower {name} or raise {limit_name}."
                )

    @property
    def excluded(self) -> int:
        """Products that a request can exclude from the answer."""
        return self.exclusions + (self.history if self.exclude_history else 0)

    @property
    def fetched(self) -> int:
        """Neighbours that the index is asked for: it knows no exclusions, so C must remain whatever is excluded."""
        return self.candidates + self.excluded
