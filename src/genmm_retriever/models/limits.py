"""How much a model takes in one prompt."""

from __future__ import annotations

from typing import Any

_ONE_PICTURE = frozenset(
    "blip-2 instructblip kosmos-2 fuyu git llava llava_next mllama paligemma pix2struct "  # noqa: SIM905
    "vipllava".split()
)
"""Families that were trained on prompts with one picture each."""


def pictures_per_prompt(config: Any) -> int | None:
    """The most pictures that a family of models knows in one prompt; None for no limit.

    Args:
        config: The model's configuration.
    """
    return 1 if getattr(config, "model_type", None) in _ONE_PICTURE else None


def context_length(config: Any) -> int | None:
    """Tokens that prompt and answer may have together; None where a model does not say."""
    length = getattr(config.get_text_config(), "max_position_embeddings", None)
    return None if length is None else int(length)
