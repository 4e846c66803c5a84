"""Any transformers model behind the one protocol of `genmm_retriever.models.base`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from genmm_retriever.errors import InputError, ModelError
from genmm_retriever.models.base import DecodingState, ImagePart, Prompt
from genmm_retriever.models.caches import gather, is_gatherable
from genmm_retriever.models.fingerprints import fingerprint_of
from genmm_retriever.models.forwarding import ForwardPass
from genmm_retriever.models.rendering import PromptRenderer, pack
from genmm_retriever.models.sampling import generate_texts

_LOGITS_AT_ONCE = 2**26
"""Entries of a float32 logits block, 256 MiB; scoring never holds more."""


@dataclass
class _Cached:
    """Rows with keys and values: mask [n, L] of the cache, next position [n] of each row."""

    past: Any
    mask: Tensor
    following: Tensor


@dataclass
class _Sequences:
    """Rows of a model whose cache cannot be gathered: whole sequences, run anew each time."""

    prompts: list[dict[str, Tensor]]
    tails: list[list[int]]


class TransformersMLLM:
    """A transformers image-text-to-text or causal language model.

    Prompts go through the model's own chat template (see `PromptRenderer`). Batches are padded
    on the left, with explicit positions (M-RoPE included), so a row's numbers do not depend on
    its neighbours. Models whose cache is not keys and values by row (linear attention, state
    spaces) are found out at the first `prefill` and recomputed from full sequences: slower,
    the same results.

    A subclass with inputs of its own (say, cached features of pictures) overrides
    `encode_prompt`.

    Args:
        model: The loaded model; put into evaluation mode.
        processor: Its processor, or its tokenizer if it is text-only.
        name: The name or path it was loaded by.

    Raises:
        ModelError: If the model is an encoder-decoder or has no end token.
    """

    prompt_style = "instruct"
    batch_size = 16
    tokens_per_pass = 16384

    def __init__(self, model: Any, processor: Any, *, name: str = "") -> None:
        if getattr(model.config, "is_encoder_decoder", False):
            raise ModelError(
                f"{name or type(model).__name__} is an encoder-decoder model",
                "name a decoder-only model, for example Qwen/Qwen3-VL-4B-Instruct",
            )
        self.model = model.eval()
        self.processor = processor
        self.renderer = PromptRenderer(processor)
        self.tokenizer = self.renderer.tokenizer
        self._name = name or str(getattr(model, "name_or_path", "")) or type(model).__name__
        self._forward = ForwardPass(model)
        self._fingerprint: str | None = None
        self.stop_tokens = self._stop_tokens()

    def _stop_tokens(self) -> tuple[int, ...]:
        """End tokens; the first is the one that ends a turn of this tokenizer."""
        config = getattr(self.model, "generation_config", None)
        ends = getattr(config, "eos_token_id", None)
        ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
        own = self.tokenizer.eos_token_id
        if own is not None:
            ends = [own, *(end for end in ends if end != own)]
        if not ends:
            raise ModelError(
                f"the tokenizer of {self._name} has no end token",
                "set eos_token in its tokenizer_config.json",
            )
        return tuple(ends)

    @property
    def name(self) -> str:
        """The name or path that the model was loaded by."""
        return self._name

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return torch.device(self.model.device)

    @property
    def fingerprint(self) -> str:
        """Hash of the weights as they are in memory, the same in every dtype and on every device."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint_of(self.model)
        return self._fingerprint

    @property
    def vocab_size(self) -> int:
        """V, the width of the logits."""
        head = self.model.get_output_embeddings()
        if head is not None:
            return int(head.weight.shape[0])
        return int(self.model.config.get_text_config().vocab_size)

    @property
    def eos_token_id(self) -> int:
        """The token that ends an identifier."""
        return self.stop_tokens[0]

    @property
    def pad_token_id(self) -> int:
        """Fills gaps in batches; always masked out."""
        pad = self.tokenizer.pad_token_id
        return self.eos_token_id if pad is None else int(pad)

    @property
    def supports_images(self) -> bool:
        """False for a text-only language model."""
        return self.renderer.is_multimodal

    @property
    def can_gather(self) -> bool:
        """Whether rows share a cache of keys and values; else they are recomputed."""
        return self._forward.probe().gatherable

    def accepted(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Those of the inputs that the model takes, on its device and in its dtype."""
        return self._forward.accepted(inputs)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text` as it would stand in an answer, without special tokens."""
        return self.renderer.tokens(text)

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of token ids, special tokens dropped."""
        return str(
            self.tokenizer.decode(
                list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )

    def encode_images(self, images: Sequence[Image.Image]) -> Tensor | None:
        """None: features of general models are too large to keep; prompts carry pixels."""
        return None

    def apply_adapter(self, path: str | Path) -> None:
        """Merge a PEFT adapter folder into the weights.

        Raises:
            ModelError: If the folder holds no usable adapter for this model.
            MissingExtraError: If `peft` is not installed.
        """
        from genmm_retriever.models.adapters import merge_adapter

        before = self.fingerprint
        self.model, digest = merge_adapter(self.model, path)
        self.model.eval()
        self._forward = ForwardPass(self.model)
        self._fingerprint = f"{before}+{digest}"

    def encode_prompt(self, prompt: Prompt) -> dict[str, Tensor]:
        """Model inputs of one prompt; the seam that subclasses override.

        Returns:
            `input_ids` and `attention_mask` [1, L] (and further sequences named in
            `rendering.SEQUENCE_KEYS`), and tensors for the model's `forward` whose first
            dimension counts pictures (or parts of them) and is joined over a batch.
        """
        return self.renderer.encode(prompt)

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int = 64,
        num_return_sequences: int = 1,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[list[str]]:
        """Answer each prompt freely; see `Generator.generate`.

        Samples are drawn from the 50 likeliest tokens by noise that depends on the seed, the
        prompt and the number of the sample, so they do not change with the batch around them,
        and the global random state is neither read nor changed.

        Raises:
            InputError: If a number is out of range.
        """
        if max_new_tokens < 1 or num_return_sequences < 1 or temperature < 0:
            raise InputError(
                "generate needs max_new_tokens >= 1, num_return_sequences >= 1, temperature >= 0",
                f"got {max_new_tokens}, {num_return_sequences}, {temperature}",
            )
        texts: list[list[str]] = []
        for start in range(0, len(prompts), self.batch_size):
            texts += generate_texts(
                self,
                prompts[start : start + self.batch_size],
                max_new_tokens,
                num_return_sequences,
                temperature,
                seed,
            )
        return texts

    @torch.no_grad()
    def prefill(self, prompts: Sequence[Prompt]) -> DecodingState:
        """Run each prompt once; the state has one row a prompt (n = Q)."""
        if not prompts:
            raise InputError("prefill needs at least one prompt")
        return self.prefill_encoded([self.encode_prompt(prompt) for prompt in prompts])

    def prefill_encoded(self, encoded: list[dict[str, Tensor]]) -> DecodingState:
        """`prefill` of prompts that `encode_prompt` has already turned into inputs."""
        query = torch.arange(len(encoded), device=self.device)
        if self.can_gather:
            inputs, positions = self._inputs(encoded, [[] for _ in encoded])
            states, past = self._forward.run(inputs, positions, keep=1, use_cache=True)
            if is_gatherable(past, inputs["input_ids"].shape[1]):
                following = positions.amax(dim=-1) + 1
                following = following if following.dim() == 1 else following.amax(dim=0)
                cache = _Cached(past, inputs["attention_mask"], following)
                return DecodingState(self._forward.logits(states[:, -1]), query, cache)
        return self._recompute(_Sequences(encoded, [[] for _ in encoded]), query)

    def _inputs(
        self, encoded: Sequence[dict[str, Tensor]], tails: Sequence[Sequence[int]], *, left: bool = True
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Packed inputs on the device, and the positions of their tokens."""
        packed = pack(encoded, tails, pad_token_id=self.pad_token_id, pad_left=left)
        positions = self._forward.positions(packed).to(self.device)
        return self._forward.accepted(packed), positions

    def _recompute(self, rows: _Sequences, query: Tensor) -> DecodingState:
        """Next-token logits of whole sequences; padded on the right, which no row can see."""
        lengths = [_length(p, t) for p, t in zip(rows.prompts, rows.tails, strict=True)]
        logits = torch.empty(len(lengths), self.vocab_size, device=self.device)
        for chunk in self._chunks(lengths):
            prompts, tails = [rows.prompts[i] for i in chunk], [rows.tails[i] for i in chunk]
            inputs, positions = self._inputs(prompts, tails, left=False)
            width = inputs["input_ids"].shape[1]
            states, _ = self._forward.run(inputs, positions, keep=width)
            last = torch.tensor([lengths[i] - 1 for i in chunk])
            logits[chunk] = self._forward.logits(states[torch.arange(len(chunk)), last])
        return DecodingState(logits, query, rows)

    @torch.no_grad()
    def step(self, state: DecodingState, parents: Tensor, tokens: Tensor) -> DecodingState:
        """Extend rows by one token each; see `MLLM.step`."""
        parents, tokens = parents.to(self.device), tokens.to(self.device)
        query = state.query[parents]
        if isinstance(state.cache, _Sequences):
            old = state.cache
            rows = parents.tolist()
            tails = [[*old.tails[r], t] for r, t in zip(rows, tokens.tolist(), strict=True)]
            return self._recompute(_Sequences([old.prompts[r] for r in rows], tails), query)
        cache = self._rows(state, parents)
        mask = torch.cat([cache.mask, cache.mask.new_ones(len(parents), 1)], dim=1)
        states, past = self._forward.run(
            self._forward.accepted({"input_ids": tokens[:, None], "attention_mask": mask}),
            self._forward.text_positions(cache.following[:, None]),
            keep=1,
            cache=cache.past,
            use_cache=True,
        )
        advanced = _Cached(past, mask, cache.following + 1)
        return DecodingState(self._forward.logits(states[:, -1]), query, advanced)

    def _rows(self, state: DecodingState, parents: Tensor) -> _Cached:
        cache = state.cache
        if not isinstance(cache, _Cached):
            raise InputError("this decoding state was made by another model")
        return replace(
            cache,
            past=gather(cache.past, parents),
            mask=cache.mask[parents],
            following=cache.following[parents],
        )

    @torch.no_grad()
    def score_from(
        self, state: DecodingState, parents: Tensor, tails: Sequence[Sequence[int]]
    ) -> list[Tensor]:
        """Log-probabilities of whole tails that continue rows of `state`; see `MLLM`."""
        _check_tails(tails, len(parents))
        parents = parents.to(self.device)
        if isinstance(state.cache, _Sequences):
            rows = parents.tolist()
            prompts = [state.cache.prompts[r] for r in rows]
            starts = [state.cache.tails[r] for r in rows]
            whole = [[*start, *tail] for start, tail in zip(starts, tails, strict=True)]
            scores = self._score_packed(prompts, whole)
            return [s[len(start) :] for s, start in zip(scores, starts, strict=True)]
        first = torch.log_softmax(state.logits.float(), -1)[
            parents, torch.tensor([tail[0] for tail in tails], device=self.device)
        ]
        scores = [first[i : i + 1] for i in range(len(tails))]
        # Tails of one token are known already; the others are run without their last token.
        longer = [i for i, tail in enumerate(tails) if len(tail) > 1]
        width = state.cache.mask.shape[1] if isinstance(state.cache, _Cached) else 0
        for chunk in self._chunks([width + len(tails[i]) for i in longer]):
            chosen = [longer[i] for i in chunk]
            rest = self._continue(state, parents[chosen], [tails[i] for i in chosen])
            for i, score in zip(chosen, rest, strict=True):
                scores[i] = torch.cat([scores[i], score])
        return scores

    def _continue(
        self, state: DecodingState, parents: Tensor, tails: Sequence[Sequence[int]]
    ) -> list[Tensor]:
        """Scores of all tokens of the tails but their first."""
        cache = self._rows(state, parents)
        fed = pad_sequence(
            [torch.tensor(tail[:-1]) for tail in tails], True, self.pad_token_id
        ).to(self.device)
        lengths = torch.tensor([len(tail) - 1 for tail in tails], device=self.device)
        steps = torch.arange(fed.shape[1], device=self.device)
        real = steps[None] < lengths[:, None]
        mask = torch.cat([cache.mask, real.to(cache.mask.dtype)], dim=1)
        states, _ = self._forward.run(
            self._forward.accepted({"input_ids": fed, "attention_mask": mask}),
            self._forward.text_positions(cache.following[:, None] + steps[None]),
            keep=fed.shape[1],
            cache=cache.past,
            use_cache=True,
        )
        return self._scores_at(states[real], [list(tail[1:]) for tail in tails])

    @torch.no_grad()
    def score(
        self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[int]]
    ) -> list[Tensor]:
        """Log-probabilities of one continuation a prompt; see `MLLM.score`.

        A prompt that comes again (the same object, or equal text) is run once.
        """
        _check_tails(continuations, len(prompts))
        unique: dict[Prompt, int] = {}
        for prompt in prompts:
            unique.setdefault(prompt, len(unique))
        rows = [unique[prompt] for prompt in prompts]
        shared = len(unique) < len(prompts) and self.can_gather
        scores: list[Tensor | None] = [None] * len(prompts)
        for group in self._groups(list(unique)):
            encoded = {row: self.encode_prompt(prompt) for row, prompt in group}
            members = [i for i, row in enumerate(rows) if row in encoded]
            tails = [continuations[i] for i in members]
            if shared:
                order = {row: place for place, row in enumerate(encoded)}
                state = self.prefill_encoded(list(encoded.values()))
                parents = torch.tensor([order[rows[i]] for i in members])
                found = self.score_from(state, parents, tails)
            else:
                found = self._score_packed([encoded[rows[i]] for i in members], tails)
            for i, score in zip(members, found, strict=True):
                scores[i] = score
        return [score for score in scores if score is not None]

    def _score_packed(
        self, encoded: Sequence[dict[str, Tensor]], tails: Sequence[Sequence[int]]
    ) -> list[Tensor]:
        scores: list[Tensor] = [torch.empty(0)] * len(tails)
        lengths = [_length(p, t) for p, t in zip(encoded, tails, strict=True)]
        left = self.can_gather
        for chunk in self._chunks(lengths):
            chosen = [tails[i] for i in chunk]
            prompts = [encoded[i] for i in chunk]
            # The last token of a tail is asked for, never fed.
            fed = [list(tail[:-1]) for tail in chosen]
            inputs, positions = self._inputs(prompts, fed, left=left)
            total = inputs["input_ids"].shape[1]
            prompt_lengths = torch.tensor([p["input_ids"].shape[1] for p in prompts])
            starts = torch.full_like(prompt_lengths, int(prompt_lengths.max()))
            starts = (starts if left else prompt_lengths) - 1
            keep = total - int(starts.min())
            states, _ = self._forward.run(inputs, positions, keep=keep)
            counts = torch.tensor([len(tail) for tail in chosen])
            steps = torch.arange(keep) + (total - keep)
            wanted = (steps >= starts[:, None]) & (steps < (starts + counts)[:, None])
            found = self._scores_at(states[wanted.to(states.device)], chosen)
            for i, score in zip(chunk, found, strict=True):
                scores[i] = score
        return scores

    def _scores_at(self, states: Tensor, tails: Sequence[Sequence[int]]) -> list[Tensor]:
        """Log-probabilities of the tails' tokens, given one state a token, row after row."""
        targets = torch.tensor([token for tail in tails for token in tail], device=states.device)
        size = max(1, _LOGITS_AT_ONCE // self.vocab_size)
        parts = []
        for block, wanted in zip(states.split(size), targets.split(size), strict=True):
            logits = self._forward.logits(block)
            at = logits.gather(1, wanted[:, None])[:, 0]
            parts.append(at - torch.logsumexp(logits, dim=-1))
        return list(torch.cat(parts).split([len(tail) for tail in tails]))

    def _groups(self, prompts: list[Prompt]) -> Iterator[list[tuple[int, Prompt]]]:
        """Prompts in runs that are encoded together: few where there are pixels to hold."""
        pixels = any(
            isinstance(part, ImagePart) and part.image is not None
            for prompt in prompts
            for part in prompt.parts
        )
        size = self.batch_size if pixels else 1024
        numbered = list(enumerate(prompts))
        for start in range(0, len(numbered), size):
            yield numbered[start : start + size]

    def _chunks(self, lengths: Sequence[int]) -> list[list[int]]:
        """Rows in passes of at most `tokens_per_pass` padded tokens, by length if several."""
        if not lengths or max(lengths) * len(lengths) <= self.tokens_per_pass:
            return [list(range(len(lengths)))] if lengths else []
        chunks: list[list[int]] = [[]]
        for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
            first = lengths[chunks[-1][0]] if chunks[-1] else lengths[row]
            if chunks[-1] and first * (len(chunks[-1]) + 1) > self.tokens_per_pass:
                chunks.append([])
            chunks[-1].append(row)
        return chunks


def _length(prompt: dict[str, Tensor], tail: Sequence[int]) -> int:
    return int(prompt["input_ids"].shape[1]) + len(tail)


def _check_tails(tails: Sequence[Sequence[int]], expected: int) -> None:
    if len(tails) != expected:
        raise InputError(f"{len(tails)} continuations were given for {expected} rows")
    if any(len(tail) == 0 for tail in tails):
        raise InputError("a continuation to be scored is empty")
