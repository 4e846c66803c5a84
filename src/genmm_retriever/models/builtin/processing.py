"""Processor of the builtin model: pictures to pixel values, prompts to token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import BaseImageProcessor, BatchFeature, PreTrainedTokenizerBase, ProcessorMixin

from genmm_retriever.models.builtin.text import IMAGE

CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}<|im_start|>"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>"
    "{% else %}{{ message['content'] }}<|im_end|>{% endif %}{% endfor %}"
)


def pixel_values(images: Sequence[Image.Image], size: int) -> Tensor:
    """RGB pictures squashed to a square and scaled as EfficientNet-Lite expects.

    Args:
        images: n RGB pictures of any size.
        size: Side of the square, in pixels.

    Returns:
        [n, 3, size, size], float32, in about [-1, 1].
    """
    squares = [
        np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC))
        for image in images
    ]
    stacked = torch.from_numpy(np.stack(squares).astype(np.float32))
    return ((stacked - 127) / 128).permute(0, 3, 1, 2).contiguous()


class GenmmBuiltinImageProcessor(BaseImageProcessor):
    """Pictures of any size to pixel values.

    Args:
        size: Side of the square that pictures are squashed to.
    """

    model_input_names = ["pixel_values"]  # noqa: RUF012 - declared so by transformers

    def __init__(self, size: int = 260, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size = size

    def preprocess(self, images: Any, **kwargs: Any) -> BatchFeature:
        """Pictures, possibly nested by prompt, to `pixel_values` [n, 3, size, size]."""
        return BatchFeature({"pixel_values": pixel_values(_flat(images), self.size)})


class GenmmBuiltinProcessor(ProcessorMixin):
    """Image processor and tokenizer; `<image>` becomes the positions that a picture takes.

    Args:
        image_processor: Of the pictures.
        tokenizer: SmolLM2's, with `<image>` added.
        image_seq_length: Positions a picture takes.
    """

    attributes = ["image_processor", "tokenizer"]  # noqa: RUF012

    def __init__(
        self,
        image_processor: GenmmBuiltinImageProcessor | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        image_seq_length: int = 18,
        chat_template: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.image_seq_length = image_seq_length
        self.image_token = IMAGE
        super().__init__(  # type: ignore[no-untyped-call]
            image_processor, tokenizer, chat_template=chat_template or CHAT_TEMPLATE
        )

    def __call__(
        self,
        images: Any = None,
        text: str | list[str] | None = None,
        return_tensors: str | None = "pt",
        **kwargs: Any,
    ) -> BatchFeature:
        """Tokens of the texts, with room for their pictures, and the pictures' pixels."""
        texts = [text] if isinstance(text, str) else list(text or [])
        expanded = [one.replace(IMAGE, IMAGE * self.image_seq_length) for one in texts]
        data: dict[str, Any] = {}
        if expanded:
            kwargs.setdefault("add_special_tokens", False)
            data.update(self.tokenizer(expanded, return_tensors=return_tensors, **kwargs))
        if images is not None:
            data.update(self.image_processor.preprocess(images))
        return BatchFeature(data)


def _flat(images: Any) -> list[Image.Image]:
    if isinstance(images, Image.Image):
        return [images]
    return [one for group in images for one in _flat(group)]
