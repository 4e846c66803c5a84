"""Models shared by all rooms: a tiny builtin one with random weights, and the shipped one.

Heavy libraries are imported inside the fixtures: tests of the base installation run without.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

# Processes of one run share the cores; set before torch and numba are loaded, also for what the
# tests start.
_CORES = str(max(1, (os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))))
os.environ.setdefault("OMP_NUM_THREADS", _CORES)
os.environ.setdefault("NUMBA_NUM_THREADS", _CORES)


def _byte_level(special: list[str]) -> Any:
    """A byte-level tokenizer backend whose first tokens are the given special ones."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokens = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return backend


@pytest.fixture(scope="session")
def byte_level() -> Callable[[list[str]], Any]:
    """Makes a byte-level tokenizer backend from its special tokens."""
    return _byte_level


def _tokenizer() -> Any:
    """Byte-level, with the special tokens of SmolLM2 and the picture's placeholder last."""
    from transformers import PreTrainedTokenizerFast

    backend = _byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    return tokenizer


def _calibrate(vision: Any) -> None:
    """Give the batch norms of random weights statistics, or all pictures would look the same."""
    import torch

    norms = [m for m in vision.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    draw = torch.rand(8, 3, 4, 4) * 2 - 1
    with torch.no_grad():
        vision.train().extract_features(torch.nn.functional.interpolate(draw, size=64))
    vision.eval()
    for norm in norms:
        norm.momentum = 0.01


def _make_builtin(seed: int = 0, **changes: Any) -> tuple[Any, Any]:
    """Model and processor; next-token distributions are far from flat."""
    pytest.importorskip("efficientnet_lite_pytorch", reason="the extra `builtin` is missing")
    import torch
    from transformers import LlamaConfig

    from genmm_retriever.models.builtin import (
        GenmmBuiltinConfig,
        GenmmBuiltinForConditionalGeneration,
        GenmmBuiltinImageProcessor,
        GenmmBuiltinProcessor,
    )

    tokenizer = _tokenizer()
    words = len(tokenizer) - 1
    text = LlamaConfig(
        vocab_size=words,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    options: dict[str, Any] = {
        "vision_model": "efficientnet-lite0",
        "image_size": 64,
        "grid": 2,
        "lower_blocks": (2, 4),
        "lower_dim": 64,
        "usual_queries": 5,
        "object_slots": 4,
        "projector_dim": 16,
        "contrastive_dim": 24,
        "contrastive_hidden": 16,
        "image_token_id": words,
    }
    config = GenmmBuiltinConfig(text, **(options | changes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GenmmBuiltinForConditionalGeneration(config)
        for value in model.model.language_model.parameters():
            if value.dim() > 1:
                torch.nn.init.normal_(value, std=0.3)
        for value in (
            model.model.projector.place,
            model.model.objects.absent,
            model.model.objects.confidence,
            model.contrastive.label_vectors,
            model.matching.label_vectors,
            model.matching.usual,
        ):
            torch.nn.init.normal_(value)
        _calibrate(model.model.vision)
        model.model.objects.set_labels([[5 + i % 200, 7 + i % 90] for i in range(1000)])
    model.lm_head.weight = model.model.get_input_embeddings().weight
    images = GenmmBuiltinImageProcessor(config.image_size)
    return model.eval(), GenmmBuiltinProcessor(images, tokenizer, config.image_seq_length)


@pytest.fixture(scope="session")
def make_builtin() -> Callable[..., tuple[Any, Any]]:
    """Makes a tiny builtin model and its processor from a seed."""
    return _make_builtin


@pytest.fixture(scope="session")
def tiny_builtin() -> Any:
    """A tiny `BuiltinMLLM` with random weights."""
    model, processor = _make_builtin()
    from genmm_retriever.models.builtin import BuiltinMLLM

    return BuiltinMLLM(model, processor, name="tiny-builtin")


@pytest.fixture(scope="session")
def builtin() -> Any:
    """The builtin model with its shipped weights, loaded once for all tests."""
    assembly = pytest.importorskip("genmm_retriever.models.builtin.assembly")
    from genmm_retriever.errors import MissingExtraError, ModelNotFoundError
    from genmm_retriever.models.loading import load_model

    if not (assembly.ASSETS / assembly.HEAD_FILE).is_file():
        pytest.skip("the builtin weights are not in this checkout")
    try:
        return load_model("builtin")
    except (MissingExtraError, ModelNotFoundError) as error:
        pytest.skip(f"the builtin model cannot be had here: {error.message}")


def _clip_config(kind: str, tokens: int, eos: int) -> Any:
    from transformers import CLIPConfig, SiglipConfig

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2}
    text = {**sizes, "vocab_size": tokens, "max_position_embeddings": 24}
    text |= {"bos_token_id": eos, "eos_token_id": eos, "pad_token_id": eos}
    vision = {**sizes, "image_size": 28, "patch_size": 14}
    if kind == "siglip":
        return SiglipConfig(text_config={**text, "projection_size": 16}, vision_config=vision)
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Folder of a saved contrastive model with random weights, "clip" or "siglip", by its seed."""

    def make(kind: str = "clip", seed: int = 0) -> Path:
        import torch
        from tokenizers.processors import TemplateProcessing
        from transformers import AutoModel, CLIPImageProcessor, PreTrainedTokenizerFast

        backend = _byte_level(["<|end|>"])
        backend.post_processor = TemplateProcessing(
            single="$A <|end|>", special_tokens=[("<|end|>", 0)]
        )
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=backend, eos_token="<|end|>", pad_token="<|end|>"
        )
        torch.manual_seed(seed)
        model = AutoModel.from_config(_clip_config(kind, len(tokenizer), 0))
        with torch.no_grad():
            for weight in model.parameters():
                if weight.dim() > 1:
                    weight.normal_(std=0.3)
            if hasattr(model, "logit_bias"):
                model.logit_scale.fill_(4.0)
                model.logit_bias.fill_(-12.0)
        folder = tmp_path_factory.mktemp(kind)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        size = {"height": 28, "width": 28}
        CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=size).save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def noise() -> Callable[..., Image.Image]:
    """A picture of coloured patches, of any size."""

    def make(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
        draw = np.random.default_rng(seed)
        patches = Image.fromarray(draw.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        return patches.resize((width, height), Image.Resampling.NEAREST)

    return make


@pytest.fixture
def pictures(tmp_path: Path, noise: Callable[..., Image.Image]) -> Path:
    """A folder with six pictures."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(6):
        noise(seed=i).save(folder / f"p{i}.png")
    return folder
