"""A simulated shop whose shoppers' choices are known: events, catalogue, and the best ranking that can be attained."""

from transform.simulator.config import SimulatorConfig
from transform.simulator.truth import Oracle
from transform.simulator.writer import simulate

__all__ = ["Oracle", "SimulatorConfig", "simulate"]
