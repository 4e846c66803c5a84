"""The tuned parts on disk: safetensors, replaced atomically."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from genmm_retriever.errors import ModelError, ModelNotFoundError, StorageError
from genmm_retriever.training.prefix.cells import CellFlow
from genmm_retriever.training.prefix.tuning import PrefixTuning

_KIND = "genmm-prefix-tuning"


def save_tuned(tuning: PrefixTuning | CellFlow, path: Path | str) -> None:
    """Write what was learned, and nothing of the frozen tower.

    Args:
        tuning: Whose `trainable_parameters` are written.
        path: A `.safetensors` file; an older one is replaced.

    Raises:
        StorageError: If it cannot be written.
    """
    path = Path(path)
    tensors = {
        name: value.detach().cpu().contiguous()
        for name, value in tuning.trainable_parameters().items()
    }
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, temporary, metadata={"kind": _KIND, "class": type(tuning).__name__})
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(f"{path} cannot be written: {error}", "choose another place") from error


@torch.no_grad()
def load_tuned(tuning: PrefixTuning | CellFlow, path: Path | str) -> None:
    """Put what was learned back into a tuning of the same sizes.

    Args:
        tuning: Whose `trainable_parameters` are overwritten; untouched when anything fails.
        path: From `save_tuned`.

    Raises:
        ModelNotFoundError: If there is no such file.
        ModelError: If the file is damaged, or of a tuning of another kind or size.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelNotFoundError(f"there is no file {path}", "give a file that save_tuned wrote")
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read: {error}", "train and save it again") from error
    wanted = tuning.trainable_parameters()
    if tensors.keys() != wanted.keys():
        names = sorted(tensors.keys() ^ wanted.keys())
        raise ModelError(
            f"{path} is of another kind of tuning: {names[0]} is on one side only",
            f"load it into what it was saved from; a {type(tuning).__name__} was given",
        )
    for name, value in wanted.items():
        if tensors[name].shape != value.shape:
            raise ModelError(
                f"{name} in {path} has shape {list(tensors[name].shape)}, not {list(value.shape)}",
                "load it into a tuning of the same sizes",
            )
    for name, value in wanted.items():
        value.copy_(tensors[name])
