"""Nested state (tensors, arrays, numbers, strings) as one safetensors file and one JSON file."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

_TENSOR, _ARRAY, _PAIRS, _TUPLE = "$tensor", "$array", "$pairs", "$tuple"


def encode(tree: Any) -> tuple[dict[str, Tensor], Any]:
    """Split nested state into tensors by key and a JSON tree that refers to them.

    Raises TypeError for anything else than dicts, lists, tuples, tensors, arrays and JSON values.
    """
    tensors: dict[str, Tensor] = {}

    def keep(tensor: Tensor, tag: str) -> dict[str, str]:
        key = str(len(tensors))
        tensors[key] = tensor.detach().cpu().contiguous().clone()
        return {tag: key}

    def walk(x: Any, at: str) -> Any:
        if isinstance(x, Tensor):
            return keep(x, _TENSOR)
        if isinstance(x, np.ndarray):
            return keep(torch.from_numpy(np.array(x)), _ARRAY)
        if isinstance(x, np.generic):
            return x.item()
        if isinstance(x, Mapping):
            if all(isinstance(k, str) and not k.startswith("$") for k in x):
                return {k: walk(v, f"{at}.{k}") for k, v in x.items()}
            return {_PAIRS: [[k, walk(v, f"{at}.{k}")] for k, v in x.items()]}
        if isinstance(x, tuple):
            return {_TUPLE: [walk(v, f"{at}[{i}]") for i, v in enumerate(x)]}
        if isinstance(x, list):
            return [walk(v, f"{at}[{i}]") for i, v in enumerate(x)]
        if x is None or isinstance(x, (bool, int, float, str)):
            return x
        raise TypeError(f"{at or 'the state'} holds a {type(x).__name__}, which is not saved")

    return tensors, walk(tree, "")


def decode(tensors: Mapping[str, Tensor], tree: Any) -> Any:
    """Put together what `encode` split."""
    if isinstance(tree, list):
        return [decode(tensors, x) for x in tree]
    if not isinstance(tree, dict):
        return tree
    if _TENSOR in tree:
        return tensors[tree[_TENSOR]]
    if _ARRAY in tree:
        return tensors[tree[_ARRAY]].numpy()
    if _TUPLE in tree:
        return tuple(decode(tensors, x) for x in tree[_TUPLE])
    if _PAIRS in tree:
        return {k: decode(tensors, v) for k, v in tree[_PAIRS]}
    return {k: decode(tensors, v) for k, v in tree.items()}
