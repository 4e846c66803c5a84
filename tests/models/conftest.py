"""Tiny random-weight models of several families, with tokenizers and processors made here."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from genmm_retriever.models.processors import images_only
from genmm_retriever.models.transformers_mllm import TransformersMLLM

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for p in m['content'] %}{% if p['type'] == 'image' %}IMAGE_HERE"
    "{% else %}{{ p['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer(placeholder: str = "", **named: str) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with chat markers and the given special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|pad|>", "<|im_start|>", "<|im_end|>", *named.values()]
    vocab = {token: i for i, token in enumerate([*special, *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        extra_special_tokens={"turn_start": "<|im_start|>", **named},
        chat_template=CHAT.replace("IMAGE_HERE", placeholder),
    )


_TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
    "tie_word_embeddings": False,
}
_VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "initializer_range": 0.3,
}


def _text(tokenizer: PreTrainedTokenizerFast, **more: Any) -> dict[str, Any]:
    return {**_TEXT, "vocab_size": len(tokenizer), "pad_token_id": 0, "eos_token_id": 2, **more}


def _llama() -> tuple[Any, Any]:
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer()
    return LlamaForCausalLM(LlamaConfig(**_text(tokenizer))), tokenizer


def _mistral() -> tuple[Any, Any]:
    from transformers import MistralConfig, MistralForCausalLM

    tokenizer = make_tokenizer()
    return MistralForCausalLM(MistralConfig(**_text(tokenizer, sliding_window=7))), tokenizer


def _gemma2() -> tuple[Any, Any]:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    tokenizer = make_tokenizer()
    options = _text(tokenizer, head_dim=8, sliding_window=7, final_logit_softcapping=2.0)
    return Gemma2ForCausalLM(Gemma2Config(**options)), tokenizer


def _mamba() -> tuple[Any, Any]:
    from transformers import MambaConfig, MambaForCausalLM

    tokenizer = make_tokenizer()
    config = MambaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        state_size=4,
        num_hidden_layers=2,
        initializer_range=0.3,
        pad_token_id=0,
        eos_token_id=2,
    )
    return MambaForCausalLM(config), tokenizer


def _lfm2() -> tuple[Any, Any]:
    from transformers import Lfm2Config, Lfm2ForCausalLM

    tokenizer = make_tokenizer()
    options = _text(tokenizer, layer_types=["conv", "full_attention"])
    return Lfm2ForCausalLM(Lfm2Config(**options)), tokenizer


def _llava() -> tuple[Any, Any]:
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    tokenizer = make_tokenizer("<image>", image_token="<image>")
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**_VISION, image_size=28, patch_size=14, projection_dim=16),
        text_config=LlamaConfig(**_text(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=4,
        vision_feature_layer=-1,
        tie_word_embeddings=False,
    )
    side = {"height": 28, "width": 28}
    images = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=side)
    processor = LlavaProcessor(
        images,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    )
    return LlavaForConditionalGeneration(config), processor


def _qwen3_vl() -> tuple[Any, Any]:
    from transformers import (
        Qwen2VLImageProcessorPil,
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        Qwen3VLProcessor,
    )

    tokenizer = make_tokenizer(
        "<|vision_start|><|image_pad|><|vision_end|>",
        image_token="<|image_pad|>",
        video_token="<|video_pad|>",
        vision_start="<|vision_start|>",
        vision_end="<|vision_end|>",
    )
    ids = tokenizer.convert_tokens_to_ids
    text = _text(
        tokenizer,
        head_dim=8,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [2, 1, 1],
            "mrope_interleaved": True,
        },
    )
    vision = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "depth": 2,
        "num_heads": 2,
        "patch_size": 4,
        "out_hidden_size": 32,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0],
        "initializer_range": 0.3,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    config = Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=False,
    )
    images = Qwen2VLImageProcessorPil(
        patch_size=4,
        merge_size=2,
        temporal_patch_size=2,
        size={"shortest_edge": 16 * 16, "longest_edge": 48 * 48},
    )
    processor = images_only(Qwen3VLProcessor)(
        images, tokenizer, chat_template=tokenizer.chat_template
    )
    return Qwen3VLForConditionalGeneration(config), processor


def _idefics3() -> tuple[Any, Any]:
    from transformers import (
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3ImageProcessorPil,
        Idefics3Processor,
    )

    return _splitting(
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3ImageProcessorPil,
        lambda images, tokenizer: Idefics3Processor(
            images, tokenizer, image_seq_len=4, chat_template=tokenizer.chat_template
        ),
    )


def _smolvlm() -> tuple[Any, Any]:
    pytest.importorskip("num2words")
    from transformers import (
        SmolVLMConfig,
        SmolVLMForConditionalGeneration,
        SmolVLMImageProcessorPil,
        SmolVLMProcessor,
    )

    return _splitting(
        SmolVLMConfig,
        SmolVLMForConditionalGeneration,
        SmolVLMImageProcessorPil,
        lambda images, tokenizer: images_only(SmolVLMProcessor)(
            images, tokenizer, None, image_seq_len=4, chat_template=tokenizer.chat_template
        ),
    )


def _splitting(
    config_class: Any, model_class: Any, images_class: Any, make: Callable[[Any, Any], Any]
) -> tuple[Any, Any]:
    """Models that cut a picture into tiles and stack the tiles by prompt."""
    tokenizer = make_tokenizer(
        "<image>",
        image_token="<image>",
        fake="<fake_token_around_image>",
        whole="<global-img>",
        turn_end="<end_of_utterance>",
        **{f"tile{r}{c}": f"<row_{r}_col_{c}>" for r in (1, 2, 3) for c in (1, 2, 3)},
    )
    config = config_class(
        text_config={"model_type": "llama", **_text(tokenizer)},
        vision_config={**_VISION, "image_size": 32, "patch_size": 8},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    images = images_class(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    return model_class(config), make(images, tokenizer)


def _internvl() -> tuple[Any, Any]:
    from transformers import (
        GotOcr2ImageProcessorPil,
        InternVLConfig,
        InternVLForConditionalGeneration,
        InternVLProcessor,
    )

    tokenizer = make_tokenizer(
        "<IMG_CONTEXT>",
        context_image_token="<IMG_CONTEXT>",
        start_image_token="<img>",
        end_image_token="</img>",
        video_token="<video>",
    )
    config = InternVLConfig(
        vision_config={**_VISION, "image_size": [28, 28], "patch_size": [7, 7]},
        text_config={"model_type": "qwen2", **_text(tokenizer)},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        downsample_ratio=0.5,
        tie_word_embeddings=False,
    )
    images = GotOcr2ImageProcessorPil(
        size={"height": 28, "width": 28}, crop_to_patches=True, max_patches=4
    )
    processor = images_only(InternVLProcessor)(
        images, tokenizer, image_seq_length=4, chat_template=tokenizer.chat_template
    )
    return InternVLForConditionalGeneration(config), processor


_MAKERS = {
    "llama": _llama,
    "mistral-sliding": _mistral,
    "gemma2-softcap": _gemma2,
    "mamba": _mamba,
    "lfm2-hybrid": _lfm2,
    "llava": _llava,
    "qwen3-vl": _qwen3_vl,
    "idefics3": _idefics3,
    "smolvlm": _smolvlm,
    "internvl": _internvl,
}
VISUAL = ["llava", "qwen3-vl", "idefics3", "smolvlm", "internvl"]
TEXTUAL = ["llama", "mistral-sliding", "gemma2-softcap", "mamba", "lfm2-hybrid"]


@cache
def _built(kind: str) -> TransformersMLLM:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model, processor = _MAKERS[kind]()
    return TransformersMLLM(model.float(), processor, name=f"tiny-{kind}")


@pytest.fixture(params=[*TEXTUAL, *VISUAL])
def mllm(request: pytest.FixtureRequest) -> TransformersMLLM:
    """Each tiny model in turn."""
    return _built(request.param)


@pytest.fixture(params=VISUAL)
def visual(request: pytest.FixtureRequest) -> TransformersMLLM:
    """Each tiny model that takes pictures in turn."""
    return _built(request.param)


@pytest.fixture(params=TEXTUAL)
def textual(request: pytest.FixtureRequest) -> TransformersMLLM:
    """Each tiny text-only model in turn."""
    return _built(request.param)


@pytest.fixture
def build() -> Callable[[str], TransformersMLLM]:
    """A tiny model by its kind."""
    return _built


@pytest.fixture
def picture() -> Callable[..., Image.Image]:
    """A picture of coloured noise, of any size."""

    def make(width: int, height: int, seed: int = 0) -> Image.Image:
        noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        return Image.fromarray(noise)

    return make
