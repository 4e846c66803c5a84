"""Qwen3-VL at its real sizes with random weights: honest times without 9 GB of download."""

from __future__ import annotations

import zlib
from typing import Any

import torch
from torch import Tensor

from genmm_retriever.models.base import Prompt, TextPart
from genmm_retriever.models.loading import pick_dtype
from genmm_retriever.models.transformers_mllm import TransformersMLLM

VOCABULARY = 151_936
END = 151_645
"""The released models' <|im_end|>."""
_GRID = 32
_TEXT: dict[str, dict[str, int]] = {
    # Hidden size, layers, heads, key-value heads and inner size of the released models; 0.6B is
    # Qwen3's, of which no Qwen3-VL was released.
    "tiny": {"hidden": 64, "layers": 2, "heads": 4, "kv": 2, "inner": 96},
    "0.6B": {"hidden": 1024, "layers": 28, "heads": 16, "kv": 8, "inner": 3072},
    "2B": {"hidden": 2048, "layers": 28, "heads": 16, "kv": 8, "inner": 6144},
    "4B": {"hidden": 2560, "layers": 36, "heads": 32, "kv": 8, "inner": 9728},
    "8B": {"hidden": 4096, "layers": 36, "heads": 32, "kv": 8, "inner": 12288},
}
_VISION: dict[str, dict[str, Any]] = {
    "tiny": {"hidden": 32, "layers": 2, "inner": 48, "deep": [0, 1], "heads": 2},
    "0.6B": {"hidden": 32, "layers": 2, "inner": 48, "deep": [0, 1], "heads": 2},
    "2B": {"hidden": 1024, "layers": 24, "inner": 4096, "deep": [5, 11, 17], "heads": 16},
    "4B": {"hidden": 1024, "layers": 24, "inner": 4096, "deep": [5, 11, 17], "heads": 16},
    "8B": {"hidden": 1152, "layers": 27, "inner": 4304, "deep": [8, 16, 24], "heads": 16},
}


class RandomQwen(TransformersMLLM):
    """A random model that is asked in token ids, with a picture of random patches.

    Attributes:
        picture_tokens: Visual tokens of the picture.
    """

    picture_tokens = _GRID * _GRID // 4

    def picture_prompt(self, text: str) -> Prompt:
        """A text; `encode_prompt` puts the picture before it."""
        return Prompt((TextPart(text),))

    def encode_prompt(self, prompt: Prompt) -> dict[str, Tensor]:
        """Picture placeholders, then a token a word."""
        config = self.model.config
        words = " ".join(p.text for p in prompt.parts if isinstance(p, TextPart)).split()
        usual = min(100_000, config.text_config.vocab_size // 2)
        ids = [
            config.vision_start_token_id,
            *[config.image_token_id] * self.picture_tokens,
            config.vision_end_token_id,
            *(zlib.crc32(word.encode()) % usual for word in words),
        ]
        vision = config.vision_config
        size = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        draw = torch.Generator().manual_seed(0)
        row = torch.tensor([ids])
        return {
            "input_ids": row,
            "attention_mask": torch.ones_like(row),
            "mm_token_type_ids": (row == config.image_token_id).long(),
            "pixel_values": torch.randn(_GRID * _GRID, size, generator=draw),
            "image_grid_thw": torch.tensor([[1, _GRID, _GRID]]),
        }


def random_qwen(size: str, device: str) -> RandomQwen:
    """A Qwen3-VL of the named size, in the dtype that models are loaded in, of random weights.

    Args:
        size: "2B", "4B" or "8B"; "0.6B" has the text model of Qwen3-0.6B and a tiny vision tower,
            for processors; "tiny" for trying out.
        device: Where to put it.
    """
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    text, vision = _TEXT[size], _VISION[size]
    head = 16 if size == "tiny" else 128
    sections = [4, 2, 2] if size == "tiny" else [24, 20, 20]
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": text["hidden"],
            "intermediate_size": text["inner"],
            "num_hidden_layers": text["layers"],
            "num_attention_heads": text["heads"],
            "num_key_value_heads": text["kv"],
            "head_dim": head,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5_000_000.0,
                "mrope_section": sections,
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": vision["layers"],
            "hidden_size": vision["hidden"],
            "intermediate_size": vision["inner"],
            "num_heads": vision["heads"],
            "out_hidden_size": text["hidden"],
            "deepstack_visual_indexes": vision["deep"],
        },
        tie_word_embeddings=size != "8B",
    )
    dtype = pick_dtype(torch.device(device))
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = Qwen3VLForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    return RandomQwen(model, _tokenizer(), name=f"Qwen3-VL-{size}, random weights")


def _tokenizer() -> Any:
    """No words, only the end token at its place: prompts and identifiers are token ids."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"<|im_end|>": END, "?": 0}, unk_token="?"))
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|im_end|>", unk_token="?"
    )
