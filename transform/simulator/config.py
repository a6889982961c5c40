"""What can be set for the simulated shop."""

import time
from dataclasses import dataclass

from transform.clock import DAY

# Fewer products than this cannot fill the smallest shop's categories.
MIN_PRODUCTS = 40
# Sessions of one shopper need room between each other.
MAX_SESSIONS_PER_DAY = 4


@dataclass(frozen=True)
class SimulatorConfig:
    """Sizes of the simulated shop; the same configuration gives the same bytes.

    Raises:
        ValueError: a size that is too small, or a span that reaches into the future.
    """

    products: int = 5_000
    shoppers: int = 20_000
    # Expected number of rows, impressions and searches included; the real number differs by chance.
    events: int = 500_000
    days: int = 60
    pictures: bool = True
    seed: int = 1
    # First second of the span, since 1970, UTC: Friday 1 March 2024.
    start: int = 1_709_251_200

    def __post_init__(self) -> None:
        least = {"products": MIN_PRODUCTS, "shoppers": 1, "events": 1, "days": 1, "seed": 0, "start": 1}
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise ValueError(f"simulator: {name} must be at least {minimum}, received {getattr(self, name)}")
        if self.end > time.time():
            raise ValueError(
                f"simulator: the span must lie in the past, but start {self.start} plus {self.days} days is in the "
                "future; give an earlier start or fewer days"
            )

    @property
    def end(self) -> int:
        """The second after the span."""
        return self.start + self.days * DAY
