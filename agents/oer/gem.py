"""GEM: a step that raises the loss of none of the memories."""

from collections.abc import Callable

import torch
from scipy.optimize import nnls
from torch import Tensor
from torch.optim import Optimizer


def gem(gradient: Tensor, memories: Tensor, margin: float = 0.0) -> Tensor:
    """Return the vector [P] nearest to a gradient that has no negative product with any of [K, P].

    Lopez-Paz & Ranzato 2017 (arXiv:1706.08840, eq. 11): g + G^T (v + margin) with v >= 0 least in
    |G^T v + g|^2; with one memory and no margin A-GEM's projection.
    """
    if bool((memories @ gradient >= 0).all()):
        return gradient
    # The same least squares in K numbers: G^T = Q R, and what Q does not span stays as it is.
    q, r = torch.linalg.qr(memories.T.double())
    v, _ = nnls(r.numpy(), -(q.T @ gradient.double()).numpy())
    return gradient + memories.T @ (torch.from_numpy(v).to(gradient) + margin)


def along_all(memories: Callable[[], Tensor]) -> Callable[[Optimizer, Tensor], None]:
    """Return a step along `gem` of the loss's gradient, by the losses [K] of the memories."""

    def take(optimizer: Optimizer, loss: Tensor) -> None:
        (flat,) = optimizer.param_groups[0]["params"]

        def gradient(of: Tensor) -> Tensor:
            optimizer.zero_grad(set_to_none=False)
            of.backward(retain_graph=True)  # type: ignore[no-untyped-call]
            out: Tensor = flat.grad.clone()
            return out

        own = gradient(loss)
        flat.grad.copy_(gem(own, torch.stack([gradient(each) for each in memories()])))
        optimizer.step()

    return take
