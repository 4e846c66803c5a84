"""One forward pass of any transformers model: positions, caches, and logits only where wanted."""

from __future__ import annotations

import inspect
import threading
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from genmm_retriever.models.caches import is_gatherable, is_plain
from genmm_retriever.models.packed import PackedBody, PackedHead
from genmm_retriever.models.scoring import Stretch

_OF_THE_HEAD = {"logits_to_keep", "labels", "image_sizes"}
"""Arguments that a whole model may have and its base may lack, with no effect on its states."""
_SCALED_LOGITS = ("final_logit_softcapping", "logits_scaling", "logit_scale", "mup_logits")


@dataclass(frozen=True)
class Probe:
    """What a first tiny forward pass found out.

    Attributes:
        head: The linear vocabulary head, if the logits are nothing but it; else None.
        gatherable: Whether the cache is keys and values by row.
        tree: Whether a mask may say of every pair of tokens who sees whom.
    """

    head: Any
    gatherable: bool
    tree: bool


class ForwardPass:
    """Calls a model with explicit positions and keeps its vocabulary head small.

    Where the model is "hidden states, then a linear head" (found out by a probe), the head is
    applied to chosen positions alone; else `logits_to_keep` cuts the sequence before the head.

    Args:
        model: A causal or image-text-to-text model in evaluation mode.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.names = set(inspect.signature(model.forward).parameters)
        self.takes_positions = "position_ids" in self.names
        self._rope = next(
            (m for m in (model, getattr(model, "model", None)) if hasattr(m, "get_rope_index")),
            None,
        )
        self._probe: Probe | None = None
        self._begun: Probe | None = None
        self._probing = threading.RLock()
        self._packed: PackedBody | None = None

    def accepted(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The inputs that the model knows, on its device and in its dtype."""
        device, dtype = self.model.device, self.model.dtype
        return {
            key: value.to(device, dtype) if value.is_floating_point() else value.to(device)
            for key, value in inputs.items()
            if key in self.names
        }

    def positions(self, inputs: dict[str, Tensor]) -> Tensor:
        """Position of every token: [n, L], or [3, n, L] for models with M-RoPE."""
        mask = inputs["attention_mask"]
        plain = (mask.cumsum(-1) - 1).clamp(min=0)
        if self._rope is None:
            return plain
        if not any(key.endswith("grid_thw") for key in inputs):
            return plain.expand(3, -1, -1)
        known = inspect.signature(self._rope.get_rope_index).parameters
        given = {key: value for key, value in inputs.items() if key in known}
        positions, _ = self._rope.get_rope_index(**given)
        return torch.as_tensor(positions).to(mask.device)

    def text_positions(self, following: Tensor) -> Tensor:
        """Positions of plain text tokens, [n, T], in the shape that the model wants."""
        return following if self._rope is None else following.expand(3, -1, -1)

    def run(
        self,
        inputs: dict[str, Tensor],
        positions: Tensor,
        *,
        keep: int,
        cache: Any = None,
        use_cache: bool = False,
    ) -> tuple[Tensor, Any]:
        """Run the model.

        Args:
            inputs: What `accepted` gave, sequences [n, T].
            positions: [n, T] or [3, n, T].
            keep: How many of the last tokens are wanted.
            cache: Keys and values to attend to; grown in place. Whether weights have changed is
                looked at by runs without one.
            use_cache: Whether a cache is wanted.

        Returns:
            States [n, keep, H] that `logits` turns into logits, and the cache or None.
        """
        extra: dict[str, Any] = {"use_cache": use_cache, "return_dict": True}
        if self.takes_positions:
            extra["position_ids"] = positions
        if cache is not None:
            extra["past_key_values"] = cache
        if self.probe().head is not None:
            base = self.packed.current() if cache is None else self.packed.latest()[0]
            if "image_sizes" in inputs and "image_sizes" not in _names(base):
                inputs = {key: value for key, value in inputs.items() if key != "image_sizes"}
            output = base(**inputs, **extra)
            states = output[0][:, -keep:]
        else:
            if "logits_to_keep" in self.names:
                extra["logits_to_keep"] = keep
            output = self.model(**inputs, **extra)
            states = output.logits[:, -keep:]
        return states, getattr(output, "past_key_values", None)

    @property
    def packed(self) -> PackedBody:
        """What stands in for the model's body and head where that is faster."""
        if self._packed is None:
            head = self.probe().head
            with self._probing:
                self._packed = self._packed or PackedBody(self.model, head)
        return self._packed

    def begin(self) -> None:
        """Look whether weights have changed, as a run without a cache does by itself."""
        if self.probe().head is not None:
            self.packed.current()

    def logits(self, states: Tensor) -> Tensor:
        """Logits [k, V], float32, of chosen states [k, H] from `run`."""
        return self.raw_logits(states).float()

    def raw_logits(self, states: Tensor) -> Tensor:
        """As `logits`, in the model's own dtype."""
        if self.probe().head is None:
            return states
        return torch.as_tensor(self.packed.latest()[1](states))

    def vocabulary(self, size: int) -> list[Stretch]:
        """The parts in which logits are best computed where few of them are kept.

        Args:
            size: V, where the model does not say it.
        """
        head = None if self.probe().head is None else self.packed.latest()[1]
        if isinstance(head, PackedHead) and not head.is_hooked:
            return head.stretches
        return [Stretch(0, getattr(head, "out_features", size), self.raw_logits)]

    def additive(self, mask: Tensor) -> Tensor:
        """Turn "may see" [n, 1, T, L] into what is added to attention scores."""
        # A model's vision side may be of another dtype than its language model.
        dtype = self.model.get_input_embeddings().weight.dtype
        hidden = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
        return hidden.masked_fill_(~mask, torch.finfo(dtype).min)

    def probe(self) -> Probe:
        """What three tokens of text tell about the model; found out once."""
        if self._probe is None:
            # Other threads wait: rows run by half of it would be rounded in another way.
            with self._probing:
                if self._probe is None and self._begun is not None:
                    return self._begun
                self._probe = self._probe or self._probed()
        return self._probe

    @torch.no_grad()
    def _probed(self) -> Probe:
        """As `probe`; passes of its own go by what it has found so far."""
        model = self.model
        head, base = model.get_output_embeddings(), model.base_model
        config = model.config.get_text_config()
        size = config.vocab_size
        # Spread over the vocabulary: neighbours, special tokens above all, may look the same.
        spread = [size * part // 9 for part in range(1, 8)]
        tokens = torch.tensor([[*spread[:2], spread[0]]], device=model.device)
        inputs = self.accepted({"input_ids": tokens, "attention_mask": torch.ones_like(tokens)})
        output = model(**inputs, use_cache=True)
        past = getattr(output, "past_key_values", None)
        gatherable = is_gatherable(past, tokens.shape[1])
        scaled = any(getattr(config, name, None) not in (None, 1, 1.0) for name in _SCALED_LOGITS)
        linear = None
        inputs_differ = not self.names - _OF_THE_HEAD <= _names(base)
        if head is not None and base is not model and not scaled and not inputs_differ:
            states = base(**inputs, use_cache=False)[0]
            # Some bodies sum in float32 and cast before their head.
            by_head = head(states) if states.dtype == head.weight.dtype else None
            if by_head is not None and _alike(output.logits, by_head):
                linear = head
        begun = self._begun = Probe(head=linear, gatherable=gatherable, tree=False)
        try:
            sees = gatherable and is_plain(past) and self._sees_by_mask(*spread)
        finally:
            self._begun = None
        return replace(begun, tree=sees)

    def _sees_by_mask(self, *tokens: int) -> bool:
        """Whether two branches in one pass, told apart by the mask alone, come out right.

        They are compared with each branch alone, and the error with that of a pass in which
        the second branch does see the first.
        """
        prompt, one, other = list(tokens[:3]), list(tokens[3:5]), list(tokens[5:7])
        try:
            alone = self._branches(prompt, [other], hidden=True)
            apart = self._branches(prompt, [one, other], hidden=True)
            mixed = self._branches(prompt, [one, other], hidden=False)
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError):
            return False
        right, wrong = (apart - alone).abs().max(), (mixed - alone).abs().max()
        return bool(right <= 0.25 * wrong)

    def _branches(self, prompt: list[int], branches: list[list[int]], *, hidden: bool) -> Tensor:
        """Next-token logits of the last of some branches that are run together, [V]."""
        device, width = self.model.device, len(prompt)
        ids = torch.tensor([prompt], device=device)
        inputs = self.accepted({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
        _, past = self.run(inputs, self.positions(inputs), keep=1, use_cache=True)
        tokens = torch.tensor([[t for branch in branches for t in branch]], device=device)
        count = tokens.shape[1]
        sees = torch.ones((count, width + count), dtype=torch.bool, device=device)
        sees[:, width:] = torch.ones(count, count, dtype=torch.bool, device=device).tril()
        at = width
        for branch in branches if hidden else []:
            sees[at - width + len(branch) :, at : at + len(branch)] = False
            at += len(branch)
        places = torch.tensor([[width + i for branch in branches for i in range(len(branch))]])
        states, _ = self.run(
            {"input_ids": tokens, "attention_mask": self.additive(sees[None, None])},
            self.text_positions(places.to(device)),
            keep=1,
            cache=past,
            use_cache=True,
        )
        return self.logits(states[:, -1])[0]


def _alike(one: Tensor, two: Tensor) -> bool:
    return one.shape == two.shape and torch.allclose(one.float(), two.float(), 1e-3, 1e-4)


def _names(module: Any) -> set[str]:
    return set(inspect.signature(module.forward).parameters)
