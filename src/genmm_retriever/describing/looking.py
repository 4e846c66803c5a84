"""Pictures as prompts take them."""

from __future__ import annotations

from typing import Any

from genmm_retriever.corpus.images import open_image
from genmm_retriever.models.base import ImagePart
from genmm_retriever.schema import ImageRef


def picture_part(reference: ImageRef, model: object) -> ImagePart:
    """A picture opened, as features where the model's can be kept, else as pixels.

    Args:
        reference: Path, URI or encoded bytes.
        model: Whoever will see it; a remote engine takes pixels.

    Raises:
        ImageError: If it cannot be opened.
    """
    opened = open_image(reference)
    encode: Any = getattr(model, "encode_images", None)
    features = None if encode is None else encode([opened])
    return ImagePart(opened) if features is None else ImagePart(features=features[0])
