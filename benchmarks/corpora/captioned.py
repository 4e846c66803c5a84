"""Captioned pictures as vectors of the model under test, computed once and kept."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.harness import Options, Skipped
from benchmarks.peers.dual_encoder import Captioned
from genmm_retriever.corpus.images import open_image
from genmm_retriever.models.builtin.mllm import BuiltinMLLM
from genmm_retriever.models.sentences import MiniLMEncoder, SentenceEncoder
from genmm_retriever.training.builtin.data import read_captioned

_AT_ONCE = 64


def flickr_file(options: Options, split: str) -> Path:
    """The JSONL of a split under `--flickr`.

    Raises:
        Skipped: If the folder was not given or lacks the split.
    """
    if options.flickr is None:
        raise Skipped("give --flickr DIR, a folder with train.jsonl and dev.jsonl")
    path = options.flickr / f"{split}.jsonl"
    if not path.is_file():
        raise Skipped(f"there is no {split}.jsonl in the folder of --flickr")
    return path


def vectors(
    source: Path,
    model: Any,
    cache: Path,
    *,
    limit: int | None = None,
    sentences: SentenceEncoder | None = None,
    lower: bool = False,
) -> Captioned:
    """Pooled features and sentence vectors of captioned-images JSONL.

    Args:
        source: The JSONL.
        model: Encodes pictures to grid features: a `BuiltinMLLM`.
        cache: Folder where features and vectors are kept between runs.
        limit: Only the first so many pictures.
        sentences: Encodes captions; MiniLM by default.
        lower: Add the means of the vision side's lower layers, which the builtin model keeps.

    Raises:
        Skipped: If the model has no features that can be kept, or no lower layers among them.
    """
    paths, captions = read_captioned(source)
    paths, captions = paths[:limit], captions[:limit]
    texts = [text for own in captions for text in own]
    if lower and not isinstance(model, BuiltinMLLM):
        raise Skipped(f"{model.name} keeps no lower layers")
    grid = cell_features(paths, model, cache)
    found = Captioned.of(grid, sentence_vectors(texts, cache, sentences), captions)
    if not lower:
        return found
    below = grid_features(paths, model, cache)[:, -1, : model.model.config.lower_dim]
    both = np.concatenate([found.pictures, below.astype(np.float32)], axis=1)
    return replace(found, pictures=both)


def sentence_vectors(
    texts: Sequence[str], cache: Path, sentences: SentenceEncoder | None = None
) -> NDArray[Any]:
    """Vectors of texts, [n, d], kept between runs; by MiniLM unless another encoder is given."""

    def read(some: Sequence[Any]) -> NDArray[Any]:
        nonlocal sentences
        sentences = sentences or MiniLMEncoder()
        return sentences.encode(list(some))

    key = ["MiniLM" if sentences is None else sentences.name, *texts]
    return _kept(cache, "sentences", key, texts, read)


def cell_features(paths: Sequence[Path], model: Any, cache: Path) -> NDArray[Any]:
    """`grid_features` without the lower layers, of which the builtin model's last row is."""
    features = grid_features(paths, model, cache)
    return features[:, :-1] if isinstance(model, BuiltinMLLM) else features


def grid_features(paths: Sequence[Path], model: Any, cache: Path) -> NDArray[Any]:
    """Features of pictures as the model sees them, [n, rows, d], kept between runs.

    Raises:
        Skipped: If the model has no features that can be kept.
    """

    def see(some: Sequence[Any]) -> NDArray[Any]:
        features = model.encode_images([open_image(path) for path in some])
        if features is None:
            raise Skipped(f"{model.name} has no picture features of one size")
        grid: NDArray[Any] = features.numpy()
        return grid

    return kept_of_pictures(paths, model, cache, "features", see)


def kept_of_pictures(
    paths: Sequence[Path],
    model: Any,
    cache: Path,
    name: str,
    see: Callable[[Sequence[Any]], NDArray[Any]],
) -> NDArray[Any]:
    """What a model sees in pictures, kept between runs.

    Args:
        paths: The n pictures.
        model: Of another fingerprint it sees anew.
        cache: Where it is kept.
        name: Of what is seen.
        see: From some paths to what is seen in them, [some, ...].

    Returns:
        [n, ...].
    """
    # A file's size and time are in its name: other pictures under the same names are other ones.
    stats = [f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in paths]
    return _kept(cache, name, [model.fingerprint, *stats], paths, see)


def _kept(
    cache: Path,
    name: str,
    key: Sequence[str],
    inputs: Sequence[Any],
    encode: Callable[[Sequence[Any]], NDArray[Any]],
) -> NDArray[Any]:
    """Vectors from the cache, or encoded now."""
    digest = hashlib.sha256("\0".join(key).encode("utf-8", "surrogatepass")).hexdigest()
    path = cache / "captioned" / f"{name}-{digest[:16]}.npy"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        starts = tqdm(range(0, len(inputs), _AT_ONCE), desc=name, file=sys.stderr)
        found = np.concatenate([encode(inputs[start : start + _AT_ONCE]) for start in starts])
        temporary = path.with_suffix(".tmp.npy")
        np.save(temporary, found)
        temporary.replace(path)
    kept: NDArray[Any] = np.load(path)
    return kept
