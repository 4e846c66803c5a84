"""Captioned pictures for training: JSONL in, cached grid features, batches out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from genmm_retriever.corpus.lines import captions_of, iter_jsonl, line_error
from genmm_retriever.errors import SourceError


@dataclass(frozen=True)
class CaptionedImages:
    """Pictures, their captions and their grid features.

    Attributes:
        paths: One file a picture.
        captions: Human captions, at least one a picture.
        features: [pictures, cells, vision_dim], float16, possibly memory-mapped.
    """

    paths: list[Path]
    captions: list[list[str]]
    features: np.ndarray

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.paths)

    def batch(self, rows: list[int], *, flip: list[bool] | None = None, grid: int = 3) -> Tensor:
        """Features of `rows`, mirrored left to right where `flip` says so; [n, cells, dim]."""
        out = torch.from_numpy(np.array(self.features[rows]))
        if flip is not None and any(flip):
            mirrored = out.view(len(out), grid, grid, -1).flip(2).flatten(1, 2)
            out = torch.where(torch.tensor(flip)[:, None, None], mirrored, out)
        return out


def read_captioned(source: Path) -> tuple[list[Path], list[list[str]]]:
    """Read captioned-images JSONL: `{"id", "image", "captions": [...]}` a line.

    Pictures without a caption are passed over.

    Raises:
        SourceError: If the file is missing, a line is broken, or there is no caption at all.
    """
    paths, captions = [], []
    for number, record in iter_jsonl(source):
        image = record.get("image")
        if not isinstance(image, str) or not image:
            raise line_error(source, number, "it has no `image`, the path of a picture")
        texts = [text for text in captions_of(record, source, number) if text.strip()]
        if texts:
            paths.append(source.parent / image)
            captions.append(texts)
    if not paths:
        raise SourceError(f"{source} holds no captioned picture", "give a JSONL with captions")
    return paths, captions
