"""Neural circuit architectural priors (Bhattasali et al. 2022) and their controls."""

from .circuit import Activity, Circuit, CircuitConfig, Weights, joint_limit
from .controllers import Network, SineCPG

__all__ = ["Activity", "Circuit", "CircuitConfig", "Network", "SineCPG", "Weights", "joint_limit"]
