"""How words enter and leave the builtin model: its compact prompt form and its spelling."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

START, END = "<|im_start|>", "<|im_end|>"
IMAGE = "<image>"
WORD_TOKENS = 32
WORD_CHARACTERS = 1000
"""Of a text that a contrastive head reads; the sentence encoder reads about as much."""
_SPACE = re.compile(r"\s+")
_LOOSE_PUNCTUATION = re.compile(r"\s+([.,;:!?])")


def normalise(text: str) -> str:
    """The spelling that answers are trained in: lower case, no loose or final stops.

    Examples:
        >>> normalise("A black dog  runs , fast .")
        'a black dog runs, fast'
    """
    text = _LOOSE_PUNCTUATION.sub(r"\1", _SPACE.sub(" ", text)).strip().lower()
    return text.rstrip(". ")


def answer_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of an answer; the leading space makes first words spell like inner ones."""
    return plain_ids(tokenizer, " " + normalise(text))


def word_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of the beginning of a text, for the contrastive head that reads words."""
    return answer_ids(tokenizer, text[:WORD_CHARACTERS])[:WORD_TOKENS]


def padded_words(ids: Sequence[Sequence[int]]) -> Tensor:
    """Token ids in one table, [n, L], -1 beyond a text's end; L is at least 1."""
    length = max((len(some) for some in ids), default=0)
    table = torch.full((len(ids), max(length, 1)), -1)
    for row, some in enumerate(ids):
        table[row, : len(some)] = torch.tensor(some, dtype=torch.int64)
    return table


def plain_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of text in which nothing is special: `<|im_end|>` typed by a user stays words."""
    ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
    return ids


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase,
    parts: Sequence[str | None],
    image_token_id: int,
    image_seq_length: int,
) -> list[int]:
    """`<|im_start|>` parts `<|im_end|>`; None stands for a picture.

    The chat template of SmolLM2 would cost some thirty tokens a prompt for nothing: the
    adapter is trained on this form.
    """
    start, end = (_special_id(tokenizer, token) for token in (START, END))
    ids = [start]
    for part in parts:
        ids += [image_token_id] * image_seq_length if part is None else plain_ids(tokenizer, part)
    return [*ids, end]


def _special_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    found: Any = tokenizer.convert_tokens_to_ids(token)
    return int(found)
