"""Many answers behind one prompt in one row: the prompt is computed once and shared.

Each answer attends to the prompt and to itself, never to its neighbours, and its positions
continue the prompt's, so that every answer is scored as if it stood alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LENGTH_STEP = 16


@dataclass(frozen=True)
class PackedBatch:
    """Rows of a prompt and its answers.

    Attributes:
        input_ids: [rows, length], right-padded.
        position_ids: [rows, length].
        mask: [rows, 1, length, length], True where attention is allowed.
        row: Row that each predicted token belongs to, [targets].
        place: Position whose hidden state predicts it, [targets].
        target: The predicted token id, [targets].
        answer: Running number of the answer it belongs to, [targets].
        answers: Number of answers in all.
    """

    input_ids: Tensor
    position_ids: Tensor
    mask: Tensor
    row: Tensor
    place: Tensor
    target: Tensor
    answer: Tensor
    answers: int


def pack(
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[Sequence[int]]],
    *,
    eos: int | None,
    pad: int = 0,
) -> PackedBatch:
    """Pack each prompt with its answers; every answer is ended by `eos`.

    Args:
        prompts: One list of token ids a row.
        answers: For each row, any number of lists of token ids, none empty.
        eos: Token that ends an answer, predicted and not fed; None for answers that go on.
        pad: Token id that fills rows up.

    Examples:
        >>> batch = pack([[1, 2]], [[[5, 6], [7]]], eos=0)
        >>> batch.input_ids[0, :5].tolist(), batch.position_ids[0, :5].tolist()
        ([1, 2, 5, 6, 7], [0, 1, 2, 3, 2])
        >>> batch.target.tolist(), batch.place.tolist(), batch.answer.tolist()
        ([5, 6, 0, 7, 0], [1, 2, 3, 1, 4], [0, 0, 0, 1, 1])
    """
    ids, positions, segments = [], [], []
    row, place, target, owner = [], [], [], []
    number = 0
    for r, (prompt, texts) in enumerate(zip(prompts, answers, strict=True)):
        line, where, segment = list(prompt), list(range(len(prompt))), [0] * len(prompt)
        for s, answer in enumerate(texts, start=1):
            # The last token is predicted and never fed.
            *text, last = answer if eos is None else [*answer, eos]
            before = [len(prompt) - 1, *range(len(line), len(line) + len(text))]
            row += [r] * len(before)
            place += before
            target += [*text, last]
            owner += [number] * len(before)
            line += text
            where += range(len(prompt), len(prompt) + len(text))
            segment += [s] * len(text)
            number += 1
        ids.append(line)
        positions.append(where)
        segments.append(segment)
    # Few distinct lengths: CPU kernels are set up once a shape.
    length = -(-max(map(len, ids)) // LENGTH_STEP) * LENGTH_STEP
    segment_ids = _padded(segments, length, -1)
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    visible = (segment_ids.unsqueeze(1) == 0) | (
        segment_ids.unsqueeze(1) == segment_ids.unsqueeze(2)
    )
    # A padded place sees itself (its segment equals its own), so that no softmax is empty.
    return PackedBatch(
        input_ids=_padded(ids, length, pad),
        position_ids=_padded(positions, length, 0),
        mask=(visible & causal).unsqueeze(1),
        row=torch.tensor(row),
        place=torch.tensor(place),
        target=torch.tensor(target),
        answer=torch.tensor(owner),
        answers=number,
    )


def _padded(rows: Sequence[Sequence[int]], length: int, value: int) -> Tensor:
    return torch.tensor([[*row, *[value] * (length - len(row))] for row in rows])


def answer_logprobs(
    hidden: Tensor, head: torch.nn.Module, batch: PackedBatch
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of answers from the last hidden states.

    Args:
        hidden: [rows, length, width].
        head: The language model's output layer.
        batch: What the hidden states were computed for.

    Returns:
        Sum over each answer's tokens [answers], and the mean NLL a token (both differentiable).
    """
    logits = head(hidden[batch.row, batch.place]).float()
    target, answer = batch.target.to(logits.device), batch.answer.to(logits.device)
    nll = torch.nn.functional.cross_entropy(logits, target, reduction="none")
    total = nll.new_zeros(batch.answers).index_add(0, answer, -nll)
    return total, nll.mean()
