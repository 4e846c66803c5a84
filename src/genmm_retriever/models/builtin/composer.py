"""A picture and a change to it, as one vector of what is looked for.

The sum of both vectors is a good guess; this learns what to add to it from triplets (reference,
change, target), as Baldrati et al., "Conditioned and composed image retrieval combining and
partially fine-tuning CLIP-based features" (CVPRW 2022) do over CLIP.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from genmm_retriever.errors import ModelError

HIDDEN = 256
_WEIGHING = 32


class Composer(nn.Module):
    """From unit vectors of pictures and of changes to unit vectors of the targets.

    Begins as the sum of both, so that an untrained one changes nothing.

    Args:
        dim: Of the vectors.
        hidden: Width of the layer between.
    """

    def __init__(self, dim: int, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.change = nn.Sequential(
            nn.Linear(2 * dim, hidden), nn.GELU(), nn.Dropout(0.5), nn.Linear(hidden, dim)
        )
        self.weigh = nn.Sequential(
            nn.Linear(2 * dim, _WEIGHING), nn.GELU(), nn.Linear(_WEIGHING, 2)
        )
        for last in (self.change[-1], self.weigh[-1]):
            assert isinstance(last, nn.Linear)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, images: Tensor, texts: Tensor) -> Tensor:
        """Unit vectors [n, d] of n pictures and of what is to change in them."""
        both = torch.cat([images, texts], dim=-1)
        weights = 1 + torch.tanh(self.weigh(both))
        summed = weights[..., :1] * images + weights[..., 1:] * texts
        return nn.functional.normalize(summed + self.change(both), dim=-1)


def load_composer(path: Path, dim: int) -> Composer | None:
    """The composer of a file, ready for use; None if there is no file.

    Args:
        path: Safetensors that `train_composer` wrote.
        dim: Of the vectors that it is to compose.

    Raises:
        ModelError: If the file is damaged or is for other vectors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        return None
    try:
        tensors = {name: value.float() for name, value in load_file(path).items()}
        composer = Composer(dim, hidden=len(tensors["change.0.bias"]))
        composer.load_state_dict(tensors)
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise ModelError(
            f"{path} cannot be used: {str(error).splitlines()[0]}",
            "reinstall the package, or train it again",
        ) from error
    return composer.eval().requires_grad_(False)
