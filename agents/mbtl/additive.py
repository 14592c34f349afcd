"""What a row is made of: the source, the target, and the way between them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Additive(NamedTuple):
    """U[x, x'] = source(x) + target . x' + column(x') + way . |x - x'| + noise, of K rows."""

    way: Tensor  # [d]: how the return changes with the distance, negative where it falls
    target: Tensor  # [d]: and with the target's context
    column: Tensor  # [N]: what is left of each target in all rows
    source: Tensor  # [K]: what each trained policy is worth on the average
    noise: float  # variance of what is left

    def common(self, contexts: Tensor) -> Tensor:
        """Return what is each target's own [N], whatever the source."""
        return contexts @ self.target + self.column

    def row(self, contexts: Tensor, index: int, source: float) -> Tensor:
        """Return the row [N] of a source in place `index` whose worth is `source`."""
        distance = (contexts[index] - contexts).abs()
        return source + self.common(contexts) + distance @ self.way


def fit_additive(contexts: Tensor, picks: Sequence[int], rows: Tensor) -> Additive:
    """Return the parts of rows [K, N] of the sources `picks`, by least squares within rows.

    A row's mean is taken off first: what a policy is worth must not pass for a slope. A linear
    slope of the source is told from those of target and way only by several rows, so it is left in
    `source`. A target's rest is shrunk by how much of its variance over targets is noise's.
    """
    k, (n, d) = len(rows), contexts.shape
    distance = (contexts[list(picks)][:, None] - contexts).abs()
    features = torch.cat([distance, contexts.expand(k, n, d)], -1)
    centred = (features - features.mean(1, keepdim=True)).flatten(0, 1)
    values = (rows - rows.mean(1, keepdim=True)).flatten()
    normal = centred.T @ centred
    normal.diagonal().add_(1e-6 * k * n)  # a dimension of one value alone has no slope
    slopes = torch.linalg.solve(normal, centred.T @ values)
    left = (values - centred @ slopes).reshape(k, n)
    column = left.mean(0)
    if k == 1:  # what is the target's and what is noise, one row does not tell
        column = torch.zeros_like(column)
    else:
        noise = float((left - column).square().sum()) / ((k - 1) * (n - 1)) / k
        spread = float(column.var())
        column = column * (max(0.0, spread - noise) / spread if spread > 0 else 0.0)
    source = (rows - features @ slopes - column).mean(1)
    noise = float((left - column).square().mean())
    return Additive(slopes[:d], slopes[d:], column, source, noise)
