"""Captioned pictures for training: JSONL in, cached grid features, batches out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

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
            mirrored = out.unflatten(1, (grid, grid)).flip(2).flatten(1, 2)
            out = torch.where(torch.tensor(flip)[:, None, None], mirrored, out)
        return out


def read_captioned(source: Path) -> tuple[list[Path], list[list[str]]]:
    """Read captioned-images JSONL: `{"id", "image", "captions": [...]}` a line.

    Raises:
        SourceError: If the file is missing, or a line is broken or has no caption.
    """
    try:
        lines = source.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise SourceError(f"cannot read {source}: {error.strerror}", "check the path") from error
    paths, captions = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            path, texts = source.parent / record["image"], [str(t) for t in record["captions"]]
        except (ValueError, KeyError, TypeError) as error:
            raise SourceError(
                f"{source}, line {number}: not a captioned-images record ({error})",
                'expected {"id", "image", "captions": [...]}',
            ) from error
        if texts:
            paths.append(path)
            captions.append(texts)
    if not paths:
        raise SourceError(f"{source} holds no captioned picture", "give a JSONL with captions")
    return paths, captions
