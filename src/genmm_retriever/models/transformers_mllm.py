"""Any transformers model behind the one protocol of `genmm_retriever.models.base`."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from genmm_retriever.errors import InputError, ModelError
from genmm_retriever.models.base import DecodingState, ImagePart, Prompt
from genmm_retriever.models.engine import RowEngine, check_tails
from genmm_retriever.models.fingerprints import fingerprint_of
from genmm_retriever.models.forwarding import ForwardPass
from genmm_retriever.models.limits import context_length, pictures_per_prompt
from genmm_retriever.models.rendering import PromptRenderer
from genmm_retriever.models.sampling import generate_texts

Encoded = dict[str, Tensor]


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
        self.stop_tokens = self._stop_tokens()
        self.engine = self._engine()
        self._fingerprint: str | None = None

    def _engine(self) -> RowEngine:
        return RowEngine(ForwardPass(self.model), self.vocab_size, self.pad_token_id)

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
        """Hash of the weights as they are in memory, whatever their dtype and device."""
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
    def pictures_per_prompt(self) -> int | None:
        """The most pictures that the model knows in one prompt; None for no limit."""
        return pictures_per_prompt(self.model.config) if self.supports_images else 0

    @property
    def context_length(self) -> int | None:
        """Tokens that prompt and answer may have together; None if the model does not say."""
        return context_length(self.model.config)

    @property
    def can_gather(self) -> bool:
        """Whether rows share a cache of keys and values; else they are recomputed."""
        return self.engine.can_gather

    def accepted(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Those of the inputs that the model takes, on its device and in its dtype."""
        return self.engine.forward.accepted(inputs)

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
        self.engine = self._engine()
        self._fingerprint = f"{before}+{digest}"

    def with_adapter(self, path: str | Path) -> TransformersMLLM:
        """A model of its own with an adapter merged in; this one is left as it is.

        Raises:
            ModelError: As `apply_adapter`.
            MissingExtraError: As `apply_adapter`.
        """
        other = self.copy()
        other.apply_adapter(path)
        return other

    def copy(self) -> TransformersMLLM:
        """The same model with weights of its own."""
        other = copy.copy(self)
        other.model = copy.deepcopy(self.model)
        other.engine = other._engine()
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> TransformersMLLM:
        """As `copy`: what is kept for speed stays with the first one."""
        return self.copy()

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
        return self.engine.prefill([self.encode_prompt(prompt) for prompt in prompts])

    def step(self, state: DecodingState, parents: Tensor, tokens: Tensor) -> DecodingState:
        """Extend rows by one token each; see `MLLM.step`."""
        with torch.no_grad():
            return self.engine.step(state, parents, tokens)

    def extend(
        self,
        state: DecodingState,
        parents: Tensor,
        tails: Sequence[Sequence[int]],
        ends: Sequence[bool],
    ) -> tuple[DecodingState, Tensor]:
        """Extend rows by one or more tokens each; see `MLLM.extend`."""
        with torch.no_grad():
            return self.engine.extend(state, parents, tails, ends)

    def score_from(
        self, state: DecodingState, parents: Tensor, tails: Sequence[Sequence[int]]
    ) -> list[Tensor]:
        """Log-probabilities of whole tails that continue rows of `state`; see `MLLM`."""
        with torch.no_grad():
            return self.engine.score_from(state, parents, tails)

    @torch.no_grad()
    def score(
        self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[int]]
    ) -> list[Tensor]:
        """Log-probabilities of one continuation a prompt; see `MLLM.score`.

        A prompt that comes again (the same object, or equal text) is run once; one of text and
        cached features is not even run if it was among the last ones before.
        """
        check_tails(continuations, len(prompts))
        unique: dict[Prompt, int] = {}
        for prompt in prompts:
            unique.setdefault(prompt, len(unique))
        rows = [unique[prompt] for prompt in prompts]
        kept = self._kept_state(list(unique))
        if kept is not None:
            return self.engine.score_from(kept, torch.tensor(rows), continuations)
        shared = len(unique) < len(prompts) and self.can_gather
        scores: list[Tensor | None] = [None] * len(prompts)
        for group in self._groups(list(unique)):
            encoded = {row: self.encode_prompt(prompt) for row, prompt in group}
            for chosen in self._at_once(encoded) if shared else [encoded]:
                members = [i for i, row in enumerate(rows) if row in chosen]
                tails = [continuations[i] for i in members]
                asked = [rows[i] for i in members]
                run = self._score_shared if shared else self._score_packed
                for i, score in zip(members, run(chosen, asked, tails), strict=True):
                    scores[i] = score
        return [score for score in scores if score is not None]

    def _at_once(self, encoded: Mapping[int, Encoded]) -> list[dict[int, Encoded]]:
        """Prompts cut into such as are prefilled together: of like length, and not too many."""
        order = list(encoded)
        chunks = self.engine.passes([int(encoded[row]["input_ids"].shape[1]) for row in order])
        return [{order[place]: encoded[order[place]] for place in chunk} for chunk in chunks]

    def _score_shared(
        self, encoded: Mapping[int, Encoded], rows: Sequence[int], tails: Sequence[Sequence[int]]
    ) -> list[Tensor]:
        """Scores of tails behind prompts, each of which is run once."""
        place = {row: i for i, row in enumerate(encoded)}
        state = self.engine.prefill(list(encoded.values()))
        parents = torch.tensor([place[row] for row in rows])
        return self.engine.score_from(state, parents, tails)

    def _score_packed(
        self, encoded: Mapping[int, Encoded], rows: Sequence[int], tails: Sequence[Sequence[int]]
    ) -> list[Tensor]:
        """Scores of tails, each in a row together with its prompt."""
        return self.engine.score_packed([encoded[row] for row in rows], tails)

    def _kept_state(self, prompts: list[Prompt]) -> DecodingState | None:
        """The state after prompts, begun from what is kept of them; None to run them as usual."""
        if not prompts or not self.engine.can_grow_trees:
            return None
        return self.engine.kept.prefilled(prompts, self._prefill_few)

    def _prefill_few(self, prompts: list[Prompt]) -> DecodingState | None:
        """As `prefill`; None if that is a quarter of what one pass may compute, for it is held."""
        encoded = [self.encode_prompt(prompt) for prompt in prompts]
        longest = max(one["input_ids"].shape[1] for one in encoded)
        if 4 * longest * len(encoded) > self.engine.tokens_per_pass:
            return None
        return self.engine.prefill(encoded)

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
