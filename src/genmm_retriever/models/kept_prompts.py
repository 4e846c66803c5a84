"""Keys and values of prompts that were run, for the next time that one of them begins.

The verifier asks of the same pictures again and again: those that many queries find, all of a
small corpus, those of the turn before in a conversation. What the model makes of a picture does
not depend on the query that is scored after it.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genmm_retriever.models.base import DecodingState, ImagePart, Prompt, TextPart
from genmm_retriever.models.caches import share
from genmm_retriever.models.tree_rows import TreeCache, TreeRows
from genmm_retriever.models.watched_weights import WatchedWeights


@dataclass(frozen=True)
class KeptPrompt:
    """One prompt that was run.

    Attributes:
        past: Keys and values of its L tokens, [layers, 2, heads, L, size].
        following: Position of the token that comes next.
        logits: Of that token, [V].
    """

    past: Tensor
    following: Tensor
    logits: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return int(self.past.nbytes + self.logits.nbytes)


class KeptPrompts:
    """The prompts used last, of one model; for several threads.

    Args:
        tree: Begins rows from what is kept.
        most_bytes: What they may take together; those not used for longest go first.

    Attributes:
        most_at_once: Of so many prompts together the first ones are kept no longer than till the
            last ones come, so none is.
    """

    def __init__(self, tree: TreeRows, most_bytes: int = 256 * 2**20) -> None:
        self.most_bytes = most_bytes
        self.most_at_once = 128
        self._tree = tree
        self._kept: OrderedDict[Hashable, KeptPrompt] = OrderedDict()
        self._bytes = 0
        self._weights: Hashable = None
        self._watched: WatchedWeights | None = None
        self._template: Any = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Number of prompts."""
        return len(self._kept)

    def prefilled(
        self, prompts: Sequence[Prompt], prefill: Callable[[list[Prompt]], DecodingState | None]
    ) -> DecodingState | None:
        """The state after prompts, of which only those are run that are not kept.

        Args:
            prompts: Those that are equal are run once.
            prefill: Runs prompts; None if they are too many tokens to be held at once.

        Returns:
            One row a prompt; None if one of them cannot be kept, or they are too many.
        """
        keys = [prompt_key(prompt) for prompt in prompts]
        if not prompts or len(prompts) > self.most_at_once or None in keys:
            return None
        found = self._get(keys)
        new = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in found}
        if new:
            state = prefill(list(new.values()))
            cut = None if state is None else self._cut(state)
            if state is None or cut is None:
                return None
            run = dict(zip(new, cut, strict=True))
            self._put(run, state.cache_as(TreeCache).past)
            if len(new) == len(prompts):
                return state
            found |= run
        self._tree.forward.begin()
        return self._joined([found[key] for key in keys])

    def _get(self, keys: Sequence[Hashable]) -> dict[Hashable, KeptPrompt]:
        with self._lock:
            weights = self._state_of_weights()
            if weights != self._weights:
                self._kept.clear()
                self._bytes, self._weights = 0, weights
            for key in keys:
                if key in self._kept:
                    self._kept.move_to_end(key)
            return {key: self._kept[key] for key in keys if key in self._kept}

    def _put(self, prompts: Mapping[Hashable, KeptPrompt], past: Any) -> None:
        with self._lock:
            if self._template is None:
                self._template = _emptied(past)
            for key, prompt in prompts.items():
                if key not in self._kept and prompt.nbytes <= self.most_bytes // 16:
                    self._kept[key] = prompt
                    self._bytes += prompt.nbytes
            while self._bytes > self.most_bytes:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes

    def _state_of_weights(self) -> Hashable:
        """Changes with the weights: training and adapters change them in place."""
        weights = list(self._tree.forward.model.parameters())
        watched = self._watched
        if watched is None or [*map(id, watched.weights)] != [*map(id, weights)]:
            watched = self._watched = WatchedWeights(weights)
        return watched.state()

    def _cut(self, state: DecodingState) -> list[KeptPrompt] | None:
        """Each row's prompt by itself; None if the model's caches cannot be cut."""
        if not isinstance(state.cache, TreeCache):
            return None
        cache = state.cache
        layers = [(layer.keys, layer.values) for layer in cache.past.layers]
        if len({one.shape for pair in layers for one in pair}) != 1:
            return None
        lengths = cache.prompt.sum(dim=1).tolist()
        return [
            KeptPrompt(
                torch.stack(
                    [torch.stack([one[row, :, -length:] for one in pair]) for pair in layers]
                ),
                cache.following[row].clone(),
                state.logits[row].clone(),
            )
            for row, length in enumerate(lengths)
        ]

    def _joined(self, prompts: Sequence[KeptPrompt]) -> DecodingState:
        lengths = torch.tensor([one.past.shape[-2] for one in prompts], device=self._tree.device)
        width = int(lengths.max())
        layers, _, heads, _, size = prompts[0].past.shape
        joined = prompts[0].past.new_zeros((layers, 2, len(prompts), heads, width, size))
        for row, one in enumerate(prompts):
            joined[:, :, row, :, width - one.past.shape[-2] :] = one.past
        past: Any = share(self._template)
        for layer, (keys, values) in zip(past.layers, joined, strict=True):
            layer.keys, layer.values = keys, values
        steps = torch.arange(width, device=lengths.device)
        return self._tree.start(
            past,
            steps[None] >= width - lengths[:, None],
            torch.stack([one.following for one in prompts]),
            torch.stack([one.logits for one in prompts]),
        )


def _emptied(past: Any) -> Any:
    """The cache's kind and layers without what they hold."""
    template: Any = share(past)
    for layer in template.layers:
        layer.keys, layer.values = layer.keys[:0].clone(), layer.values[:0].clone()
    return template


def prompt_key(prompt: Prompt) -> Hashable:
    """What tells a prompt from others; None where pixels would have to be read for that."""
    key: list[Hashable] = [prompt.answer]
    for part in prompt.parts:
        if isinstance(part, TextPart):
            key.append(part.text)
        elif (features := _features_key(part)) is not None:
            key.append(features)
        else:
            return None
    return tuple(key)


def _features_key(part: ImagePart) -> Hashable:
    if part.features is None:
        return None
    kept = part.features.detach().cpu().contiguous()
    digest = hashlib.sha256(kept.flatten().view(torch.uint8).numpy().tobytes()).digest()
    return tuple(kept.shape), str(kept.dtype), digest
