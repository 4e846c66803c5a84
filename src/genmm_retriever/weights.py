"""Which weights an index wants, and the model that has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genmm_retriever.corpus.store import IndexReader, IndexSettings, StoredAdapter
from genmm_retriever.errors import CapabilityError, ModelError

if TYPE_CHECKING:
    from genmm_retriever.models.base import MLLM


def weights_of(reader: IndexReader) -> tuple[str, str | None]:
    """What differs where an index was built anew with another model, or trained."""
    return reader.settings.model_fingerprint, reader.adapter_digest


def _other_weights(model: MLLM, settings: IndexSettings) -> ModelError:
    """The error of a model that is not the one that the index was built with."""
    what = f"the index was built with other weights than those of {model.name!r}"
    if model.name == settings.model:
        return ModelError(what, "the model has changed since under its name; build the index again")
    return ModelError(
        what, f"name the model it was built with ({settings.model!r}), or build it again"
    )


def fitting_model(
    model: MLLM, settings: IndexSettings, adapter: StoredAdapter | None, *, own: bool
) -> MLLM:
    """The model with the weights that an index wants.

    Args:
        model: With the weights that the index was built with, or already adapted.
        settings: Of the index.
        adapter: What the index was trained to, if it was.
        own: Whether the model is nobody else's and may be changed.

    Raises:
        ModelError: If the index was built with other weights.
        CapabilityError: If the index was trained and the model takes no adapter.
    """
    base = settings.model_fingerprint
    if adapter is not None and model.fingerprint == f"{base}+{adapter.digest}":
        return model
    if model.fingerprint != base:
        raise _other_weights(model, settings)
    if adapter is None:
        return model
    from genmm_retriever.models.transformers_mllm import TransformersMLLM

    if not isinstance(model, TransformersMLLM):
        raise CapabilityError(
            f"the index was trained, and {type(model).__name__} takes no adapter",
            f"name the model it was built with ({settings.model!r})",
        )
    if own:
        model.apply_adapter(adapter.folder)
        return model
    return model.with_adapter(adapter.folder)
