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
        features: Of `get_image_features`, [pictures, rows, vision_dim], float16, possibly
            memory-mapped.
    """

    paths: list[Path]
    captions: list[list[str]]
    features: np.ndarray

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.paths)

    def batch(self, rows: list[int], *, flip: list[bool] | None = None, grid: int = 3) -> Tensor:
        """Features of `rows`, mirrored left to right where `flip` says so; [n, rows, dim]."""
        out = torch.from_numpy(np.array(self.features[rows]))
        if flip is not None and any(flip):
            cells, lower = out[:, : grid * grid], out[:, grid * grid :]
            mirrored = cells.view(len(out), grid, grid, -1).flip(2).flatten(1, 2)
            mirrored = torch.cat([mirrored, lower], dim=1)
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


def read_questions(source: Path) -> tuple[list[Path], list[str], list[list[str]]]:
    """Read `{"id", "image", "question", "answers": [...]}` lines.

    Returns:
        The picture, the question and the answers of each line.

    Raises:
        SourceError: If the file is missing or empty, or a line is broken.
    """
    paths, questions, answers = [], [], []
    for number, record in iter_jsonl(source):
        image, question, said = (record.get(name) for name in ("image", "question", "answers"))
        if not isinstance(image, str) or not isinstance(question, str):
            raise line_error(source, number, "it has no `image` or no `question`")
        if not isinstance(said, list) or not said or not all(isinstance(a, str) for a in said):
            raise line_error(source, number, "its `answers` are no list of texts")
        paths.append(source.parent / image)
        questions.append(question)
        answers.append(said)
    if not paths:
        raise SourceError(f"{source} holds no question", "give at least one line")
    return paths, questions, answers
