"""A short hash that changes whenever the weights do, and with nothing else."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

_SAMPLES = 4096


@torch.no_grad()
def fingerprint_of(model: Any) -> str:
    """Hash a model's parameters: names, shapes and up to 4,096 values of each.

    Values are rounded to bfloat16 first, so that the same files give the same hash in every
    dtype and on every device.

    Returns:
        The class name and 16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(model.named_parameters()):
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        flat = weight.detach().reshape(-1)
        places = torch.linspace(0, max(flat.numel() - 1, 0), min(_SAMPLES, flat.numel()))
        # float64 would be exact for any size; float32 is too, up to what sampling needs.
        values = flat[places.round().long().clamp(max=flat.numel() - 1).to(flat.device)]
        digest.update(values.to(torch.bfloat16).view(torch.int16).cpu().numpy().tobytes())
    return f"{type(model).__name__}-{digest.hexdigest()[:16]}"


def fingerprint_of_file(path: Path) -> str:
    """16 hexadecimal digits of a file's SHA-256."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]
