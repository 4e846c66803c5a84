"""LoRA in the language model of any transformers model, and its way to a PEFT folder."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import nn

from genmm_retriever.errors import MissingExtraError, ModelError
from genmm_retriever.models.quiet import no_progress_bars
from genmm_retriever.models.transformers_mllm import TransformersMLLM

_BESIDE_THE_LANGUAGE = ("vision", "visual", "image", "audio", "projector", "connector", "resampler")
# State spaces read the weights of these themselves, past any LoRA around them.
_STATE_SPACES = ("mamba", "mamba2", "falcon_mamba")
_UNSUITED = ("out_proj", "dt_proj")


class Adapted:
    """LoRA layers in a model's language model: r * (in + out) weights a linear layer.

    The model is changed in place and comes back as it was by `remove`.

    Args:
        mllm: The model; its own weights are frozen.
        rank: r (LoRA, arXiv 2106.09685).
        alpha: The update is scaled by alpha / r.
        seed: Of the first values; the update itself begins at zero.
        start: A PEFT folder to go on from, or None.

    Raises:
        MissingExtraError: If `peft` is not installed.
        ModelError: If there is no linear layer to adapt, or `start` does not fit.

    Attributes:
        trainable: The LoRA weights by name, float32.
    """

    def __init__(
        self,
        mllm: TransformersMLLM,
        *,
        rank: int = 16,
        alpha: int = 32,
        seed: int = 0,
        start: Path | None = None,
    ) -> None:
        if importlib.util.find_spec("peft") is None:
            raise MissingExtraError("peft", "models")
        self.mllm = mllm
        self._frozen = {name: value.requires_grad for name, value in mllm.model.named_parameters()}
        with torch.random.fork_rng(devices=[]), no_progress_bars():
            torch.manual_seed(seed)
            self.peft = _fresh(mllm.model, rank, alpha) if start is None else _old(mllm, start)
        self.trainable: dict[str, nn.Parameter] = {
            name: value for name, value in self.peft.named_parameters() if value.requires_grad
        }

    def save(self, folder: Path) -> None:
        """Write the PEFT folder: safetensors and settings."""
        with no_progress_bars():
            self.peft.save_pretrained(
                str(folder), safe_serialization=True, save_embedding_layers=False
            )
        (folder / "README.md").unlink(missing_ok=True)  # a template that says nothing

    def remove(self) -> None:
        """Take the layers out; the model has its own weights again."""
        self.mllm.model = self.peft.unload()
        for name, value in self.mllm.model.named_parameters():
            value.requires_grad_(self._frozen[name])
        self.mllm.model.eval()


def _fresh(model: Any, rank: int, alpha: int) -> Any:
    from peft import LoraConfig, get_peft_model

    names = language_layers(model)
    if not names:
        raise ModelError(
            f"{type(model).__name__} has no linear layer that LoRA could adapt",
            "train another model",
        )
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=names)
    return get_peft_model(model, config)


def _old(mllm: TransformersMLLM, start: Path) -> Any:
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(
            mllm.model, str(start), is_trainable=True, use_safetensors=True
        )
    except (ValueError, RuntimeError, KeyError) as error:
        raise ModelError(
            f"the adapter {start} does not fit {mllm.name}", "train without --refresh"
        ) from error


def language_layers(model: Any) -> list[str]:
    """Names of the linear layers of the language model, the vocabulary head left out.

    The language model is what has the token embeddings; a vision tower beside or inside it is
    passed over.

    Args:
        model: A transformers model.
    """
    from transformers.pytorch_utils import Conv1D

    embedding = model.get_input_embeddings()
    of_embedding = next(name for name, part in model.named_modules() if part is embedding)
    inside = of_embedding.rpartition(".")[0]
    unsuited = _UNSUITED if model.config.get_text_config().model_type in _STATE_SPACES else ()
    head = model.get_output_embeddings()
    found = []
    for name, part in model.named_modules():
        own = name.removeprefix(f"{inside}.") if inside else name
        if inside and own == name:
            continue
        beside = any(word in own for word in _BESIDE_THE_LANGUAGE)
        linear = isinstance(part, (nn.Linear, Conv1D)) and part is not head
        if linear and not beside and name.rpartition(".")[2] not in unsuited:
            found.append(name)
    return found
