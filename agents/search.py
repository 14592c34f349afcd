"""Black-box search over parameter vectors: ask for a population, tell its returns.

`OpenAIES` (Salimans et al. 2017, arXiv:1703.03864), `CMAES` (Hansen 2016, arXiv:1604.00772, by the
`cma` package), `ARS` (Mania et al. 2018, arXiv:1803.07055, V1-t).
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from .api import Bounds, within


class Search(Protocol):
    """Proposes populations [P, D]; `best` is what it would give now."""

    def ask(self) -> Tensor:
        """Return the next population [P, D]."""
        ...

    def tell(self, returns: Tensor) -> None:
        """Learn from the returns [P] of the population asked for."""
        ...

    @property
    def best(self) -> Tensor:
        """The parameters [D] that the search stands at."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that a bit-exact continuation needs, between tell and ask."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        ...


@dataclass(frozen=True)
class SearchConfig:
    """Settings of the searches; each reads its own."""

    population: int = 16
    """candidates of a generation"""
    sigma: float = 0.2
    """standard deviation of the perturbations (of the first ones under CMA-ES)"""
    lr: float = 0.1
    """step size (ES, ARS)"""
    lr_decay: float = 1.0
    """factor of the step size after each generation (ES, ARS)"""
    weight_decay: float = 0.005
    """Adam's weight decay (ES)"""
    elite: int = 4
    """directions that the update uses (ARS)"""
    bounds: ClassVar[Bounds] = {
        "population": (4, 10**6),
        "sigma": (0, 1e6),
        "lr": (0, 1e6),
        "lr_decay": (0, 1),
        "weight_decay": (0, 1e3),
        "elite": (1, 10**6),
    }

    def __post_init__(self) -> None:
        """Refuse settings that make no sense."""
        within(self, **self.bounds)
        if self.population % 2:
            raise ValueError(f"population must be even, got {self.population}")
        if not (self.sigma > 0 and self.lr > 0):
            raise ValueError(f"sigma and lr must be positive, got {self.sigma}, {self.lr}")


def centred_ranks(returns: Tensor) -> Tensor:
    """Return ranks of [P] in [-0.5, 0.5] (Salimans et al., section 2.1)."""
    order = returns.argsort(stable=True)
    ranks = torch.empty_like(returns)
    ranks[order] = torch.arange(len(returns), dtype=returns.dtype)
    return ranks / (len(returns) - 1) - 0.5


class OpenAIES:
    """Antithetic pairs, centred ranks, gradient elements clipped to +-1, Adam with weight decay."""

    def __init__(self, start: Tensor, config: SearchConfig, seed: int) -> None:
        self.config = config
        self.generator = torch.Generator().manual_seed(seed)
        self.mean = torch.nn.Parameter(start.clone())
        self.optimizer = torch.optim.Adam(
            [self.mean], lr=config.lr, weight_decay=config.weight_decay
        )
        self._noise = torch.zeros(0)

    def ask(self) -> Tensor:
        """Return P / 2 pairs around the mean."""
        half = torch.randn(self.config.population // 2, len(self.mean), generator=self.generator)
        self._noise = torch.cat([half, -half])
        return self.mean.detach() + self.config.sigma * self._noise

    def tell(self, returns: Tensor) -> None:
        """Take one Adam step up the estimated gradient."""
        c = self.config
        gradient = centred_ranks(returns) @ self._noise / (c.population * c.sigma)
        self.mean.grad = -gradient.clamp(-1, 1)
        self.optimizer.step()
        for group in self.optimizer.param_groups:
            group["lr"] *= c.lr_decay

    @property
    def best(self) -> Tensor:
        """The mean."""
        return self.mean.detach().clone()

    def state_dict(self) -> dict[str, Any]:
        """Mean, Adam, generator."""
        return {
            "mean": self.best,
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.mean.data = state["mean"].clone()
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self.generator.set_state(state["generator"])


class ARS:
    """Augmented random search: the best directions, their step over their returns' deviation."""

    def __init__(self, start: Tensor, config: SearchConfig, seed: int) -> None:
        self.config, self.mean, self.lr = config, start.clone(), config.lr
        self.generator = torch.Generator().manual_seed(seed)
        self._noise = torch.zeros(0)

    def ask(self) -> Tensor:
        """Return P / 2 directions forwards, then backwards."""
        c = self.config
        self._noise = torch.randn(c.population // 2, len(self.mean), generator=self.generator)
        both = torch.cat([self._noise, -self._noise])
        return self.mean + c.sigma * both

    def tell(self, returns: Tensor) -> None:
        """Step along the `elite` directions with the best of their two returns."""
        forward, backward = returns.chunk(2)
        best = torch.maximum(forward, backward).argsort(descending=True, stable=True)
        best = best[: self.config.elite]
        used = torch.cat([forward[best], backward[best]])
        spread = used.std(unbiased=False).clamp(min=1e-8)
        step = (forward[best] - backward[best]) @ self._noise[best] / (len(best) * spread)
        self.mean = self.mean + self.lr * step.to(self.mean)
        self.lr *= self.config.lr_decay

    @property
    def best(self) -> Tensor:
        """The mean."""
        return self.mean.clone()

    def state_dict(self) -> dict[str, Any]:
        """Mean, step size, generator."""
        return {"mean": self.mean, "lr": self.lr, "generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.mean, self.lr = state["mean"].clone(), float(state["lr"])
        self.generator.set_state(state["generator"])


class CMAES:
    """CMA-ES; its state is the returns told so far, from which it is run again: no pickle."""

    def __init__(self, start: Tensor, config: SearchConfig, seed: int) -> None:
        self.config, self.start, self.seed = config, start, seed
        if len(start) > 500:
            raise ValueError(
                f"CMA-ES keeps a covariance of {len(start)} parameters squared; use es or ars"
            )
        self._begin()

    def _begin(self) -> None:
        import cma

        generator = np.random.default_rng(self.seed)
        self.told: list[list[float]] = []
        self._asked: list[Any] = []
        self._cma = cma.CMAEvolutionStrategy(
            self.start.double().numpy(),
            self.config.sigma,
            {
                "popsize": self.config.population,
                "randn": lambda *shape: generator.standard_normal(shape),
                "seed": float("nan"),  # leaves numpy's global generator alone
                "verbose": -9,
                "maxiter": float("inf"),
                "tolfun": 0,
                "tolfunhist": 0,
                "tolx": 0,
            },
        )

    def ask(self) -> Tensor:
        """Return a population around the mean."""
        self._asked = self._cma.ask()
        return torch.tensor(np.stack(self._asked), dtype=torch.float32)

    def tell(self, returns: Tensor) -> None:
        """Adapt mean, step size and covariance."""
        values = [-float(r) for r in returns]
        self.told.append(values)
        self._cma.tell(self._asked, values)

    @property
    def best(self) -> Tensor:
        """The mean of the search distribution."""
        return torch.tensor(self._cma.mean, dtype=torch.float32)

    def state_dict(self) -> dict[str, Any]:
        """All negative returns told, [generations, P]."""
        return {"told": np.array(self.told, np.float64).reshape(-1, self.config.population)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Run the search again on what it was told."""
        self._begin()
        for values in state["told"]:
            self._asked = self._cma.ask()
            self._cma.tell(self._asked, [float(v) for v in values])
            self.told.append([float(v) for v in values])


SEARCHES: dict[str, Any] = {"es": OpenAIES, "cma": CMAES, "ars": ARS}
