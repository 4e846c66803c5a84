"""Pictures of the sources and their grid features, computed once."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from genmm_retriever.corpus.images import open_image
from genmm_retriever.errors import SourceError
from genmm_retriever.models.builtin.modeling import GenmmBuiltinForConditionalGeneration
from genmm_retriever.models.builtin.processing import pixel_values
from genmm_retriever.training.builtin.data import (
    CaptionedImages,
    read_captioned,
    read_questions,
)
from genmm_retriever.training.storing import store_json, storing

_BATCH = 32


def load_data(
    sources: Sequence[Path],
    model: GenmmBuiltinForConditionalGeneration,
    work: Path,
    *,
    limit: int | None,
    progress: bool,
) -> CaptionedImages:
    """Read the sources and compute features once; a half-filled cache is filled up."""
    paths: list[Path] = []
    captions: list[list[str]] = []
    for source in sources:
        some_paths, some_captions = read_captioned(source)
        paths += some_paths[: None if limit is None else limit - len(paths)]
        captions += some_captions[: None if limit is None else limit - len(captions)]
    if not paths:
        raise SourceError("the sources hold no captioned picture", "give a JSONL with captions")
    return CaptionedImages(paths, captions, _features(paths, model, work, progress))


def load_questions(
    source: Path, model: GenmmBuiltinForConditionalGeneration, work: Path, *, progress: bool
) -> tuple[CaptionedImages, list[str]]:
    """Pictures with their answers in the place of captions, and the question about each."""
    paths, questions, answers = read_questions(source)
    return CaptionedImages(paths, answers, _features(paths, model, work, progress)), questions


def _features(
    paths: Sequence[Path], model: GenmmBuiltinForConditionalGeneration, work: Path, progress: bool
) -> np.ndarray:
    config = model.config
    shape = (len(paths), config.feature_rows, config.vision_dim)
    key = hashlib.sha256("\n".join([str(shape), *map(str, paths)]).encode()).hexdigest()[:16]
    cache, note = work / f"features-{key}.npy", work / f"features-{key}.json"
    done = json.loads(note.read_text())["done"] if note.is_file() and cache.is_file() else 0
    features = _opened(cache, shape, fresh=not done)
    model.train(False)
    for start in tqdm(range(done, len(paths), _BATCH), desc="looking", disable=not progress):
        batch = [open_image(path) for path in paths[start : start + _BATCH]]
        with torch.no_grad():
            found = model.get_image_features(pixel_values(batch, config.image_size))
        features[start : start + _BATCH] = found.half().numpy()
        with storing(cache):
            features.flush()
        store_json(note, {"done": start + len(batch)})
    return features


def _opened(cache: Path, shape: tuple[int, ...], *, fresh: bool) -> np.memmap:
    """The cache as a memory map, with all its room taken.

    A write into a map for which the disk has no room would kill the process; taking the room
    beforehand is an error that can be told.
    """
    mode: Any = "w+" if fresh else "r+"
    with storing(cache):
        try:
            features: np.memmap = np.lib.format.open_memmap(
                cache, mode=mode, dtype=np.float16, shape=shape
            )
            if hasattr(os, "posix_fallocate"):
                with cache.open("r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, cache.stat().st_size)
        except OSError:
            if fresh:
                cache.unlink(missing_ok=True)
            raise
    return features
