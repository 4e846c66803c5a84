"""The builtin model: small enough for a CPU, with real weights, no account and no hub.

Importing this package registers it with transformers' Auto classes.
"""

from __future__ import annotations

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
)

from genmm_retriever.models.builtin.configuration import GenmmBuiltinConfig
from genmm_retriever.models.builtin.mllm import BuiltinMLLM, load_builtin, load_trained
from genmm_retriever.models.builtin.modeling import GenmmBuiltinForConditionalGeneration
from genmm_retriever.models.builtin.processing import (
    GenmmBuiltinImageProcessor,
    GenmmBuiltinProcessor,
)

AutoConfig.register("genmm_builtin", GenmmBuiltinConfig, exist_ok=True)
AutoModelForImageTextToText.register(
    GenmmBuiltinConfig, GenmmBuiltinForConditionalGeneration, exist_ok=True
)
AutoImageProcessor.register(
    GenmmBuiltinConfig, slow_image_processor_class=GenmmBuiltinImageProcessor, exist_ok=True
)
AutoProcessor.register(  # type: ignore[no-untyped-call]
    GenmmBuiltinConfig, GenmmBuiltinProcessor, exist_ok=True
)

__all__ = [
    "BuiltinMLLM",
    "GenmmBuiltinConfig",
    "GenmmBuiltinForConditionalGeneration",
    "GenmmBuiltinImageProcessor",
    "GenmmBuiltinProcessor",
    "load_builtin",
    "load_trained",
]
