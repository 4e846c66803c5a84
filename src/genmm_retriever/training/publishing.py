"""A trained adapter and the identifiers' scores by it, in one new generation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tqdm import tqdm

from genmm_retriever.constraints.keeping import TRIE_PREFIX, write_trie
from genmm_retriever.corpus.store import IdentifierRecord, IndexWriter
from genmm_retriever.errors import IndexStateError
from genmm_retriever.models.base import MLLM
from genmm_retriever.models.fingerprints import fingerprint_of_file
from genmm_retriever.training.exam import null_logprobs

DOCUMENT = "training"
_ITEMS_AT_ONCE = 256


def publish_adapter(
    path: Path,
    model: MLLM,
    adapter: Path,
    record: dict[str, Any],
    *,
    before: str | None,
    progress: bool = True,
) -> int:
    """Publish an adapter; readers see the old state or the new one, whatever happens meanwhile.

    The identifiers of all items, those that were added during the training too, are scored
    anew: how likely each token is without a query depends on the model.

    Args:
        path: The index.
        model: With the adapter merged.
        adapter: The PEFT folder.
        record: What is told of the training, kept in the index.
        before: What names the adapter that the training began with, or None.
        progress: Whether to show a bar on stderr.

    Returns:
        The generation.

    Raises:
        IndexStateError: If the index was trained by somebody else, or built anew, meanwhile.
        IndexLockedError: If another writer is at work.
    """
    digest = fingerprint_of_file(adapter / "adapter_model.safetensors")
    with IndexWriter.open(path) as writer:
        present = writer.adapter()
        fits = model.fingerprint == f"{writer.settings.model_fingerprint}+{digest}"
        if (None if present is None else present.digest) != before or not fits:
            raise IndexStateError(
                f"the index at {str(path)!r} was trained or built anew meanwhile",
                "train it again",
            )
        writer.provisional()
        writer.put_adapter(adapter)
        writer.put_json(DOCUMENT, record | {"adapter": digest})
        _score_identifiers(writer, model, progress)
        writer.drop_arrays(TRIE_PREFIX)
        write_trie(writer)
        return writer.publish()


def _score_identifiers(writer: IndexWriter, model: MLLM, progress: bool) -> None:
    rows = writer.live_rows().tolist()
    with tqdm(total=len(rows), desc="scoring identifiers", disable=not progress) as bar:
        for start in range(0, len(rows), _ITEMS_AT_ONCE):
            batch = rows[start : start + _ITEMS_AT_ONCE]
            records = writer.identifiers(batch)
            scored = null_logprobs(model, [record.tokens for record in records])
            writer.put_identifiers(
                [
                    IdentifierRecord(one.row, one.text, one.tokens, tuple(logprobs.tolist()))
                    for one, logprobs in zip(records, scored, strict=True)
                ]
            )
            bar.update(len(batch))
