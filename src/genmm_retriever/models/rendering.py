"""Prompts into model inputs: chat templates, placeholders of pictures, unpadded tensors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from genmm_retriever.errors import CapabilityError, ModelError
from genmm_retriever.models.base import ImagePart, Prompt, TextPart

SEQUENCE_KEYS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
"""Inputs of shape [rows, length], one entry a token; all others belong to the pictures."""


class PromptRenderer:
    """Turns a `Prompt` into the inputs of one model, through its own chat template.

    Models without a chat template get the plain fallback: the parts one under another, each
    on its own line, and the answer beginning on a fresh line.

    Text in a prompt is data: control tokens of the model that it happens to spell (an end of
    turn, an image placeholder) are broken up by a space, so that they stay plain text.

    Args:
        processor: A transformers processor, or a tokenizer for a text-only model.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.is_multimodal = self.tokenizer is not processor
        self.template = self._template()
        self._control = _control_pattern(self.tokenizer)

    def _template(self) -> str | None:
        for holder in (self.processor, self.tokenizer):
            template = getattr(holder, "chat_template", None)
            if isinstance(template, dict):
                template = template.get("default")
            if template:
                return str(template)
        return None

    def plain(self, text: str) -> str:
        """`text` with the model's control tokens broken up, so that none is encoded as such."""
        if self._control is None:
            return text
        while broken := self._control.search(text):
            # A space after the first character is invisible to a reader and safe in any tokenizer.
            cut = broken.start() + 1
            text = f"{text[:cut]} {text[cut:]}"
        return text

    def render(self, prompt: Prompt) -> tuple[str, list[Image.Image], bool]:
        """The prompt as text with picture placeholders, its pictures, and whether to add BOS.

        Raises:
            CapabilityError: If the prompt has a picture and the model takes none, or has
                features instead of pixels.
        """
        images = [_pixels(part) for part in prompt.parts if isinstance(part, ImagePart)]
        if images and not self.is_multimodal:
            raise CapabilityError(
                "this is a text-only language model and cannot look at pictures",
                "name a multimodal model, or index captions",
            )
        answer = self.plain(prompt.answer)
        if self.template is None:
            return self._fallback(prompt) + answer, images, True
        # The tokenizer renders the processor's template to the same text, without the video
        # defaults that some processors insist on.
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": self._content(prompt)}],
            chat_template=self.template,
            add_generation_prompt=True,
            tokenize=False,
            # Hybrid thinkers answer at once; templates that do not know the switch ignore it.
            enable_thinking=False,
        )
        bos = self.tokenizer.bos_token
        # A tokenizer's template is complete; a processor's may leave the BOS to the tokenizer.
        add_bos = self.is_multimodal and not (bos and text.startswith(bos))
        return text + answer, images, add_bos

    def _content(self, prompt: Prompt) -> str | list[dict[str, str]]:
        if not self.is_multimodal:
            return "\n".join(self.plain(p.text) for p in prompt.parts if isinstance(p, TextPart))
        return [
            {"type": "text", "text": self.plain(part.text)}
            if isinstance(part, TextPart)
            else {"type": "image"}
            for part in prompt.parts
        ]

    def _fallback(self, prompt: Prompt) -> str:
        placeholder = getattr(self.processor, "image_token", "<image>")
        lines = [
            self.plain(part.text) if isinstance(part, TextPart) else placeholder
            for part in prompt.parts
        ]
        return "\n".join([*lines, ""])

    def encode(self, prompt: Prompt) -> dict[str, Tensor]:
        """Model inputs of one prompt, unpadded: sequences [1, L] and its pictures' tensors.

        Raises:
            CapabilityError: As `render`.
            ModelError: If the model's processor refuses the prompt.
        """
        text, images, add_bos = self.render(prompt)
        options: dict[str, Any] = {"return_tensors": "pt", "add_special_tokens": add_bos}
        try:
            if images:
                # Nested: processors want to know which prompt a picture belongs to.
                encoded = self.processor(text=[text], images=[images], **options)
            elif self.is_multimodal:
                encoded = self.processor(text=[text], **options)
            else:
                encoded = self.tokenizer([text], **options)
        except (ValueError, TypeError, IndexError) as error:
            raise ModelError(
                f"the model's processor {type(self.processor).__name__} refused a prompt: {error}",
                "check that processor and model belong together",
            ) from error
        inputs = {key: value for key, value in encoded.items() if isinstance(value, Tensor)}
        inputs.setdefault("attention_mask", torch.ones_like(inputs["input_ids"]))
        return inputs

    def tokens(self, text: str) -> list[int]:
        """Token ids of `text` without special tokens."""
        return list(self.tokenizer.encode(self.plain(text), add_special_tokens=False))


def pack(
    prompts: Sequence[dict[str, Tensor]],
    tails: Sequence[Sequence[int]],
    *,
    pad_token_id: int,
    pad_left: bool = True,
) -> dict[str, Tensor]:
    """Batch prompts and their continuations.

    Args:
        prompts: n outputs of `PromptRenderer.encode`.
        tails: n token sequences that continue them; may be empty.
        pad_token_id: Fills the gaps; masked out.
        pad_left: Pad prompts on the left, so that all tails begin in the same column, and
            tails on the right. Otherwise everything is padded on the right.

    Returns:
        Inputs of the model; sequences [n, L + T] for the longest prompt L and tail T.
    """
    width = max(p["input_ids"].shape[1] for p in prompts)
    longest = max(map(len, tails), default=0)
    keys = [key for key in SEQUENCE_KEYS if any(key in p for p in prompts)]
    if not pad_left:
        width = max(p["input_ids"].shape[1] + len(t) for p, t in zip(prompts, tails, strict=True))
        longest = 0
    fill = {"input_ids": pad_token_id}
    tail_fill = {"attention_mask": 1}
    packed = {}
    for key in keys:
        batch = torch.full((len(prompts), width + longest), fill.get(key, 0), dtype=torch.long)
        for row, (prompt, tail) in enumerate(zip(prompts, tails, strict=True)):
            length = prompt["input_ids"].shape[1]
            start = width - length if pad_left else 0
            if key in prompt:
                batch[row, start : start + length] = prompt[key][0]
            end = start + length
            batch[row, end : end + len(tail)] = (
                torch.tensor(tail, dtype=torch.long)
                if key == "input_ids"
                else tail_fill.get(key, 0)
            )
        packed[key] = batch
    others = dict.fromkeys(key for p in prompts for key in p if key not in SEQUENCE_KEYS)
    for key in others:
        packed[key] = _concatenate([p[key] for p in prompts if key in p])
    return packed


def _concatenate(tensors: Sequence[Tensor]) -> Tensor:
    """Join along the first dimension; the others are padded with zeros to the largest.

    Padding pictures are all zero, which is how the models that stack pictures by prompt
    (Idefics3, SmolVLM, LLaVA-NeXT) tell them from real ones.
    """
    shape = [max(sizes) for sizes in zip(*(t.shape[1:] for t in tensors), strict=True)]
    padded = []
    for tensor in tensors:
        if list(tensor.shape[1:]) != shape:
            larger = tensor.new_zeros((tensor.shape[0], *shape))
            larger[tuple(slice(size) for size in tensor.shape)] = tensor
            tensor = larger
        padded.append(tensor)
    return torch.cat(padded)


def _pixels(part: ImagePart) -> Image.Image:
    if part.image is None:
        raise CapabilityError(
            "this model takes pictures as pixels, and a prompt carries cached features",
            "features can be used only with the model that made them",
        )
    return part.image


def _control_pattern(tokenizer: Any) -> re.Pattern[str] | None:
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    texts = {str(getattr(token, "content", token)) for token in added}
    # One-character and blank "added tokens" are ordinary text in some tokenizers.
    texts = {text for text in texts if len(text) > 1 and not text.isspace() and " " not in text[:2]}
    if not texts:
        return None
    return re.compile("|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True)))
