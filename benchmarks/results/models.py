"""Models of the experiments by name."""

from __future__ import annotations

from typing import Any

import torch

from genmm_retriever.models.loading import load_model

UNTRAINED = "builtin-untrained"
"""The builtin model without its adapter: a language model that was never shown an identifier."""


def load(name: str) -> Any:
    """A model by name or path; see `UNTRAINED`."""
    if name != UNTRAINED:
        return load_model(name)
    from safetensors.torch import load_file

    from genmm_retriever.models.builtin.assembly import (
        ASSETS,
        HEAD_FILE,
        read_settings,
        untrained,
    )
    from genmm_retriever.models.builtin.mllm import BuiltinMLLM
    from genmm_retriever.models.builtin.smollm2 import fetch_gguf

    model, processor = untrained(fetch_gguf(), settings=read_settings())
    # What sees stays trained, so that the topics and the features are the same.
    model.load_state_dict(load_file(ASSETS / HEAD_FILE), strict=False)
    model.model.language_model.to(torch.bfloat16)
    settings = read_settings().get("calibration")
    model.train(False)
    return BuiltinMLLM(model, processor, name=name, calibration=settings)
