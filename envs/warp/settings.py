"""What the Warp engine may be told."""

from dataclasses import dataclass


@dataclass(frozen=True)
class WarpSettings:
    """What the Warp engine may be told; the defaults suit training."""

    graphs: bool = True
    """record the launches of a step once and replay them; False launches each kernel, to debug"""
    deterministic: bool = False
    """MuJoCo Warp's option for order on a GPU; 4.0 does not order contacts and rows yet, so runs
    are near to each other, not equal. The CPU device repeats itself bit for bit"""
    njmax: int | None = None
    """constraint rows of a world; None is twice the peak of a probe on the native engine"""
    nconmax: int | None = None
    """contacts and candidate pairs for each world, pooled; None is four times the contacts' peak"""
