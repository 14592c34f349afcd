"""Neural circuit architectural priors (Bhattasali et al. 2022) and their controls."""

from .circuit import Activity, Circuit, CircuitConfig, Weights, joint_limit
from .controllers import Controller, ControllerPolicy, Network, SineCPG, to_numpy

__all__ = [
    "Activity",
    "Circuit",
    "CircuitConfig",
    "Controller",
    "ControllerPolicy",
    "Network",
    "SineCPG",
    "Weights",
    "joint_limit",
    "to_numpy",
]
