"""PEFT adapters, merged into the weights so that they cost nothing afterwards."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from genmm_retriever.errors import MissingExtraError, ModelError, ModelNotFoundError
from genmm_retriever.models.fingerprints import fingerprint_of_file
from genmm_retriever.models.quiet import no_progress_bars

_WEIGHTS = "adapter_model.safetensors"


def merge_adapter(model: Any, path: str | Path) -> tuple[Any, str]:
    """Load a PEFT folder onto a model and merge it.

    Args:
        model: A transformers model, changed in place.
        path: Folder with `adapter_config.json` and `adapter_model.safetensors`.

    Returns:
        The model and a hash of the adapter's weights.

    Raises:
        MissingExtraError: If `peft` is not installed.
        ModelNotFoundError: If the folder or one of its files is missing.
        ModelError: If the adapter does not fit the model or cannot be merged.
    """
    folder = Path(path)
    for name in ("adapter_config.json", _WEIGHTS):
        if not (folder / name).is_file():
            raise ModelNotFoundError(
                f"the adapter folder {str(folder)!r} has no {name}",
                "name a folder written by PEFT's save_pretrained with safetensors",
            )
    if importlib.util.find_spec("peft") is None:
        raise MissingExtraError("peft", "models")
    from peft import PeftModel

    try:
        with no_progress_bars():  # PEFT asks transformers for attributes under their old names
            adapted = PeftModel.from_pretrained(model, str(folder), use_safetensors=True)
            merged = adapted.merge_and_unload()
    except (ValueError, RuntimeError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(
            f"the adapter {str(folder)!r} cannot be merged into {type(model).__name__}:"
            f" {_first_line(error)}",
            "use a LoRA adapter that was trained on this model",
        ) from error
    return merged, fingerprint_of_file(folder / _WEIGHTS)


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))
