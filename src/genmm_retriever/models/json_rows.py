"""JSON written token by token under a grammar, several prompts at a time."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genmm_retriever.errors import GenmmError
from genmm_retriever.models.base import MLLM, Prompt, TextPart
from genmm_retriever.models.json_grammar import JsonGrammar
from genmm_retriever.models.sampling import TokenChooser

if TYPE_CHECKING:
    from llguidance import LLMatcher

_TRIED = 8
_LOWEST = -1e30


@dataclass(frozen=True)
class Answer:
    """What a model wrote for one prompt.

    Args:
        text: The whole answer, or None if there is none.
        tokens: Tokens generated, or None if nobody counted them.
        seconds: Wall time from the start of its batch.
        problem: Why there is no text.
        cut: Whether the tokens ran out, so that the rest is what fitted.
        error: What was raised, if that is the problem.
    """

    text: str | None
    tokens: int | None = None
    seconds: float = 0.0
    problem: str | None = None
    cut: bool = False
    error: GenmmError | None = None


class _Row:
    """One answer as it grows; at any time its end still fits.

    Far from the limit nothing is checked. Near it a token is taken only if the JSON can be
    closed after it: strings end early enough for the model to choose what comes after them.

    Args:
        grammar: Of the answer.
        limit: Most tokens.
        reserve: Tokens before the limit from which on it is near.
        roomy: Whether there is room for any choice of names and numbers, see
            `JsonGrammar.ending`; else for short ones alone.
    """

    def __init__(self, grammar: JsonGrammar, limit: int, reserve: int, roomy: bool) -> None:
        self.grammar, self.limit, self.reserve, self.roomy = grammar, limit, reserve, roomy
        self.matcher = grammar.matcher()
        self.tokens: list[int] = []
        self.cut = False
        self.broken = False
        self.seconds = 0.0

    @property
    def done(self) -> bool:
        """Whether nothing more is to be written."""
        return self.broken or self.matcher.is_stopped()

    def advance(self, token: int, scores: Tensor) -> list[int]:
        """Take the chosen token, or the best one that fits, and what is forced after it.

        Args:
            token: The model's choice.
            scores: Of every token, [V], the illegal ones at minus infinity.

        Returns:
            What was appended.
        """
        if tail := self._take([token]):
            return tail
        self.cut = True
        best = scores.topk(min(_TRIED, len(scores)))
        for other, score in zip(best.indices.tolist(), best.values.tolist(), strict=True):
            if other != token and score >= _LOWEST and (tail := self._take([other])):
                return tail
        return self._close()

    def forced(self) -> list[int]:
        """Append what the grammar leaves no choice about, as far as it is certain."""
        return self._take([])

    def _take(self, tokens: list[int]) -> list[int]:
        """Append tokens and what is forced after them, unless that leaves no room to end."""
        ahead = self.matcher.deep_copy()
        if tokens and not ahead.consume_tokens(tokens):
            return []
        more = [] if ahead.is_stopped() else ahead.compute_ff_tokens()
        if more and not ahead.consume_tokens(more):
            return []
        tail = [*tokens, *more]
        room = self.limit - len(self.tokens) - len(tail)
        # A token beyond the logits (a placeholder) is never fed to the model.
        if room < 0 or any(token >= self.grammar.vocab_size for token in tail):
            return []
        near = room <= self.reserve and not ahead.is_stopped()
        if near and not self._can_end(ahead, [*self.tokens, *tail], room):
            return []
        self.matcher = ahead
        self.tokens += tail
        return tail

    def _can_end(self, matcher: LLMatcher, written: list[int], room: int) -> bool:
        return self.grammar.ending(matcher, written, room, roomy=self.roomy) is not None

    def _close(self) -> list[int]:
        """One step on the shortest way to the end; all of it, from further back, if need be."""
        room = self.limit - len(self.tokens)
        for roomy in (True, False) if self.roomy else (False,):
            end = self.grammar.ending(self.matcher, self.tokens, room, roomy=roomy)
            if end and (tail := self._take(end[:1])):
                return tail
        for kept in range(len(self.tokens), -1, -1):
            matcher = self.grammar.matcher(self.tokens[:kept])
            end = self.grammar.ending(matcher, self.tokens[:kept], self.limit - kept)
            if end is not None:
                matcher.consume_tokens(end)
                self.matcher, self.tokens = matcher, [*self.tokens[:kept], *end]
                break
        self.broken = not self.matcher.is_stopped()
        return []

    def answer(self) -> Answer:
        """What came of it."""
        count = len(self.tokens)
        if self.broken or self.matcher.is_error():
            problem = "the grammar of the answer became too complex"
            return Answer(None, count, self.seconds, problem, self.cut)
        return Answer(self.grammar.text(self.tokens), count, self.seconds, None, self.cut)


def write_rows(
    model: MLLM,
    grammar: JsonGrammar,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[Answer]:
    """Write one JSON text a prompt, in batches as large as the model's own.

    Args:
        model: Asked through `prefill` and `extend`; what the grammar forces is not asked for.
        grammar: Of this model and the schema.
        prompts: Q prompts.
        max_new_tokens: Most tokens of an answer, those that are forced included.
        temperature: 0 takes the best legal token.
        seed: Of the sampling; equal seeds and prompts give equal answers.

    Returns:
        Q answers; each text is complete JSON, unless the shortest one is longer than allowed.
    """
    shortest = grammar.ending(grammar.matcher(), [], max_new_tokens)
    if shortest is None:
        problem = f"no answer of this form fits into max_new_tokens={max_new_tokens}"
        return [Answer(None, 0, 0.0, problem) for _ in prompts]
    longer = grammar.ending(grammar.matcher(), [], max_new_tokens, roomy=True)
    reserve = 2 * len(longer or shortest) + 16
    size = int(getattr(model, "batch_size", 16))
    answers: list[Answer] = []
    for start in range(0, len(prompts), size):
        few = prompts[start : start + size]
        rows = [_Row(grammar, max_new_tokens, reserve, longer is not None) for _ in few]
        chooser = TokenChooser(temperature, [_seed(prompt, seed) for prompt in few])
        _write(model, grammar, few, rows, chooser)
        answers += [row.answer() for row in rows]
    return answers


@torch.no_grad()
def _write(
    model: MLLM,
    grammar: JsonGrammar,
    prompts: Sequence[Prompt],
    rows: list[_Row],
    chooser: TokenChooser,
) -> None:
    """Prompts are run once; rows leave the batch when they end."""
    started = time.perf_counter()
    state = model.prefill(prompts)
    live = list(range(len(rows)))
    # All begin alike, so either every row has such a tail or none.
    tails = [row.forced() for row in rows]
    while True:
        for row in live:
            # Those that end now leave the batch below.
            rows[row].seconds = time.perf_counter() - started
        going = [place for place, row in enumerate(live) if not rows[row].done]
        if not going:
            return
        if any(tails):
            chosen = [tails[place] for place in going]
            state, _ = model.extend(state, torch.tensor(going), chosen, [False] * len(going))
            live = [live[place] for place in going]
        scores = _masked(state.logits, grammar.legal([rows[row].matcher for row in live]))
        tokens = chooser.choose(scores, live).tolist()
        tails = [
            rows[row].advance(token, scores[place])
            for place, (row, token) in enumerate(zip(live, tokens, strict=True))
        ]


def _masked(logits: Tensor, legal: Tensor) -> Tensor:
    """Logits [n, V] with the illegal tokens at minus infinity and no other there."""
    usable = logits.float().nan_to_num(nan=_LOWEST).clamp(_LOWEST, -_LOWEST)
    return usable.masked_fill(~legal.to(logits.device), float("-inf"))


def _seed(prompt: Prompt, seed: int) -> int:
    """A seed that depends on the prompt's words, not on the batch around it."""
    texts = "\0".join(part.text for part in prompt.parts if isinstance(part, TextPart))
    digest = hashlib.blake2b(f"{seed}\0{texts}".encode(errors="replace"), digest_size=7)
    return int.from_bytes(digest.digest(), "little")
