"""How fast every training here learns over its course."""

from __future__ import annotations

import math


def warm_cosine(step: int, warmup: int, share: float) -> float:
    """What the peak learning rate is multiplied by: linear warm-up, half a cosine to a tenth.

    Args:
        step: Steps done.
        warmup: Steps of warm-up.
        share: How much of the training is over, from 0 to 1.

    Examples:
        >>> warm_cosine(4, 10, 0.0), round(warm_cosine(500, 10, 1.0), 3)
        (0.5, 0.1)
    """
    return min(1.0, (step + 1) / warmup) * (0.1 + 0.45 * (1 + math.cos(math.pi * share)))
