"""Checkpoints of a training in progress: safetensors and JSON, replaced atomically."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Trainable = dict[str, torch.nn.Parameter]


def save(
    folder: Path, parameters: Trainable, optimiser: torch.optim.Optimizer, progress: dict[str, Any]
) -> None:
    """Write weights, optimiser state and progress; a kill at any moment leaves the old ones."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"weight.{name}": value.detach() for name, value in parameters.items()}
    for name, value in parameters.items():
        for key, held in optimiser.state.get(value, {}).items():
            tensors[f"{key}.{name}"] = torch.as_tensor(held)
    temporary = folder / "state.tmp"
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        temporary,
        metadata={"progress": json.dumps(progress)},
    )
    temporary.replace(folder / "state.safetensors")


def load(
    folder: Path, parameters: Trainable, optimiser: torch.optim.Optimizer | None
) -> dict[str, Any] | None:
    """Put a checkpoint back in place.

    Returns:
        The progress that was saved, or None if there is no checkpoint.
    """
    path = folder / "state.safetensors"
    if not path.exists():
        return None
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        progress: dict[str, Any] = json.loads(file.metadata()["progress"])
    tensors: dict[str, Tensor] = load_file(path)
    with torch.no_grad():
        for name, value in parameters.items():
            value.copy_(tensors[f"weight.{name}"])
    if optimiser is not None:
        for name, value in parameters.items():
            # The optimiser counts its steps on the CPU and keeps the rest by its parameter.
            kept = {
                key: tensors[f"{key}.{name}"].to("cpu" if key == "step" else value.device)
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"{key}.{name}" in tensors
            }
            if kept:
                optimiser.state[value].update(kept)
    return progress
