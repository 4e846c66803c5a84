"""When one thread of compiled loops is faster than torch with all of its threads."""

from __future__ import annotations

import torch

_THREADS = 4
"""The loops are at least so many times as fast as torch's on one thread."""
_FEW = 2**18
"""Elements that torch does not share among threads, or not with much gain."""


def pays(elements: int) -> bool:
    """Whether a compiled loop over so many elements is to be used."""
    return elements <= _FEW or torch.get_num_threads() <= _THREADS
