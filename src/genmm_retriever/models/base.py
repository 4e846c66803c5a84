"""The one protocol that every multimodal language model is used through.

Shapes use Q prompts, n live rows (hypotheses), V vocabulary entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from PIL import Image
from torch import Tensor

from genmm_retriever.errors import InputError, MissingExtraError

CacheT = TypeVar("CacheT")
_ROWS_IN_CACHE = 8
"""Rows of logits that are normalised together."""


@dataclass(frozen=True)
class TextPart:
    """Words in a prompt."""

    text: str


@dataclass(frozen=True, eq=False)
class ImagePart:
    """A picture in a prompt, as pixels or as features from `MLLM.encode_images`.

    Args:
        image: An RGB picture, or None if `features` is given.
        features: One picture's cached features, as `encode_images` gave them.
    """

    image: Image.Image | None = None
    features: Tensor | None = None


Part = TextPart | ImagePart


@dataclass(frozen=True)
class Prompt:
    """One user turn; each model renders it through its own chat template.

    Args:
        parts: Text and pictures in reading order.
        answer: Words that the model's answer is made to begin with.
    """

    parts: tuple[Part, ...]
    answer: str = ""

    @property
    def has_image(self) -> bool:
        """Whether any part is a picture."""
        return any(isinstance(part, ImagePart) for part in self.parts)


@dataclass
class DecodingState:
    """Rows of hypotheses being decoded; made by `prefill`, advanced by `extend` and `step`.

    Attributes:
        logits: Next-token logits of every row, [n, V], float32.
        query: Which prompt each row belongs to, [n], int64.
        cache: The model's own keys and values; nobody else looks inside.
        normaliser: Log of the sum of the exponentials of each row's logits, [n], float32.
    """

    logits: Tensor
    query: Tensor
    cache: object = field(repr=False)
    normaliser: Tensor = field(default=None, repr=False)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.normaliser is None:
            self.normaliser = log_normaliser(self.logits)

    def logprobs(self, rows: Tensor, tokens: Tensor) -> Tensor:
        """Log-probabilities [m] of tokens [m] that follow rows [m], float32."""
        return self.logits[rows, tokens] - self.normaliser[rows]

    def first_logprobs(
        self, parents: Sequence[int], tails: Sequence[Sequence[int]]
    ) -> list[Tensor]:
        """Log-probability of each tail's first token after its row, m tensors of one entry."""
        device = self.logits.device
        tokens = torch.tensor([tail[0] for tail in tails], device=device)
        return list(torch.split(self.logprobs(torch.tensor(parents, device=device), tokens), 1))

    def cache_as(self, kind: type[CacheT]) -> CacheT:
        """The cache, if it is one of a kind.

        Raises:
            InputError: If another model made the state.
        """
        if not isinstance(self.cache, kind):
            raise InputError("this decoding state was made by another model")
        return self.cache

    def none(self) -> DecodingState:
        """A state without rows."""
        return DecodingState(self.logits[:0], self.query[:0], self.cache, self.normaliser[:0])


@runtime_checkable
class Generator(Protocol):
    """What a remote engine without log-probabilities can do."""

    @property
    def name(self) -> str:
        """The name or path that the model was loaded by."""
        ...

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int = 64,
        num_return_sequences: int = 1,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[list[str]]:
        """Answer each prompt freely.

        Args:
            prompts: Q prompts; they are batched by the model.
            max_new_tokens: Length limit of an answer, in tokens.
            num_return_sequences: Answers a prompt. With temperature 0 these are the best
                of a beam search, otherwise samples.
            temperature: 0 decodes greedily (or by beams).
            seed: Of the sampling; equal seeds give equal answers.

        Returns:
            Q lists of `num_return_sequences` texts, stripped, without special tokens.
        """
        ...


@runtime_checkable
class MLLM(Generator, Protocol):
    """A model whose next-token distribution can be seen: enough for constrained decoding."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever the weights do; an index remembers it."""
        ...

    @property
    def vocab_size(self) -> int:
        """V, the width of the logits."""
        ...

    @property
    def eos_token_id(self) -> int:
        """The token that ends an identifier."""
        ...

    @property
    def supports_images(self) -> bool:
        """False for a text-only language model."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids of `text` as it would stand in an answer, without special tokens."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of token ids, special tokens dropped."""
        ...

    def encode_images(self, images: Sequence[Image.Image]) -> Tensor | None:
        """Features worth keeping in the index, [len(images), *feature shape], float16.

        None if the model's features are too large to keep; prompts then carry pixels.
        """
        ...

    def prefill(self, prompts: Sequence[Prompt]) -> DecodingState:
        """Run each prompt once; the state has one row a prompt (n = Q)."""
        ...

    def step(self, state: DecodingState, parents: Tensor, tokens: Tensor) -> DecodingState:
        """Extend rows by one token each.

        Args:
            state: Left as it was.
            parents: Row of `state` that each new row continues, [m], int64.
            tokens: The token that each new row appends, [m], int64.

        Returns:
            The state of the m new rows.
        """
        ...

    def extend(
        self,
        state: DecodingState,
        parents: Tensor,
        tails: Sequence[Sequence[int]],
        ends: Sequence[bool],
    ) -> tuple[DecodingState, Tensor]:
        """Extend rows by one or more tokens each, in one pass where the model allows it.

        Args:
            state: Left as it was.
            parents: Row of `state` that each tail continues, [m], int64.
            tails: m sequences of token ids, of any lengths, none empty.
            ends: Whether nothing follows a tail: it is scored and gives no new row.

        Returns:
            The state of the rows that go on, in their order, and the log-probability (natural
            log) of each whole tail, [m], float32.
        """
        ...

    def score_from(
        self, state: DecodingState, parents: Tensor, tails: Sequence[Sequence[int]]
    ) -> list[Tensor]:
        """Log-probabilities of whole tails that continue rows of `state`, in one packed pass.

        The state is left as it was.

        Args:
            state: Rows to continue.
            parents: Row that each tail continues, [m], int64.
            tails: m sequences of token ids, of any lengths, none empty.

        Returns:
            m tensors, float32, one log-probability (natural log) a token.
        """
        ...

    def score(
        self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[int]]
    ) -> list[Tensor]:
        """Log-probabilities of one continuation a prompt, in one packed pass.

        Args:
            prompts: m prompts.
            continuations: m sequences of token ids, none empty.

        Returns:
            m tensors, float32, one log-probability (natural log) a token.
        """
        ...


@runtime_checkable
class DualEncoder(Protocol):
    """An optional cheap contrastive view of a model, fused into verification."""

    def embed_images(self, features: Tensor) -> Tensor:
        """Unit vectors [n, d], float32, from features of `MLLM.encode_images`."""
        ...

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors [n, d], float32."""
        ...


@runtime_checkable
class NearToMany(DualEncoder, Protocol):
    """A contrastive view that knows what is near to whatever is asked for."""

    def nearness(self, images: Tensor) -> Tensor:
        """What to take off the cosines of pictures with a text, [n], float32.

        Args:
            images: Unit vectors of n pictures, [n, d].
        """
        ...

    def text_nearness(self, texts: Tensor) -> Tensor:
        """What to take off the cosines of texts with a picture, [n], float32.

        Args:
            texts: Unit vectors of n texts, [n, d].
        """
        ...


@runtime_checkable
class Composing(DualEncoder, Protocol):
    """A contrastive view that knows what a picture and a change to it lead to."""

    def compose(self, images: Tensor, texts: Tensor) -> Tensor:
        """Unit vectors [n, d], float32, of targets, from those of n pictures and n changes."""
        ...


@runtime_checkable
class ObjectMatcher(Protocol):
    """An optional second cheap view: words against what a picture's classifier sees."""

    def match_objects(self, text: str, features: Tensor) -> Tensor:
        """Expected similarity of a text and the objects in pictures, [n], float32, -1 to 1."""
        ...


@runtime_checkable
class ObjectNamer(Protocol):
    """A model that can name the things in a picture without writing a caption."""

    def object_words(
        self, features: Tensor, *, least: float = 0.1
    ) -> list[list[tuple[str, float]]]:
        """Names with their probabilities, likeliest first, for each of n pictures.

        Args:
            features: Of `MLLM.encode_images`, [n, *feature shape].
            least: Names below this probability are left out.
        """
        ...


def log_normaliser(logits: Tensor) -> Tensor:
    """Log of the sum of exponentials over the vocabulary, [n], float32.

    On a CPU by a compiled loop over bfloat16, else by the fused cross-entropy, a few rows at a
    time, so that they stay in its cache: twelve and three times as fast as `torch.logsumexp` over
    all of them.

    Args:
        logits: [n, V], of any float dtype.
    """
    if logits.device.type != "cpu":
        return torch.logsumexp(logits.float(), dim=-1)
    if logits.dtype == torch.bfloat16:
        loops = _loops()
        if loops is not None and loops.pays(logits.numel()):
            found: Tensor = loops.log_sum_exp(logits.contiguous())
            return found
    parts = [_few_normalisers(rows.float()) for rows in torch.split(logits, _ROWS_IN_CACHE)]
    return torch.cat(parts)


def _few_normalisers(logits: Tensor) -> Tensor:
    # The cross-entropy of token 0 is the normaliser less that token's logit.
    first = torch.zeros(len(logits), dtype=torch.int64)
    found = logits[:, 0] + torch.nn.functional.cross_entropy(logits, first, reduction="none")
    # Token 0 may be one that is never written.
    return found if bool(found.isfinite().all()) else torch.logsumexp(logits, dim=-1)


def _loops() -> Any:
    """The compiled loops; None without numba, which most of this package does not need."""
    try:
        from genmm_retriever.models import kernels
    except MissingExtraError:
        return None
    return kernels
