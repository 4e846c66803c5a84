"""One forward pass of any transformers model: positions, caches, and logits only where wanted."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genmm_retriever.models.caches import is_gatherable

_OF_THE_HEAD = {"logits_to_keep", "labels", "image_sizes"}
"""Arguments that a whole model may have and its base may lack, with no effect on its states."""
_SCALED_LOGITS = ("final_logit_softcapping", "logits_scaling", "logit_scale", "mup_logits")


@dataclass(frozen=True)
class Probe:
    """What a first tiny forward pass found out.

    Attributes:
        head: The linear vocabulary head, if the logits are nothing but it; else None.
        gatherable: Whether the cache is keys and values by row.
    """

    head: Any
    gatherable: bool


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
            cache: Keys and values to attend to; grown in place.
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
            base = self.model.base_model
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

    def logits(self, states: Tensor) -> Tensor:
        """Logits [k, V], float32, of chosen states [k, H] from `run`."""
        head = self.probe().head
        return torch.as_tensor(states if head is None else head(states)).float()

    @torch.no_grad()
    def probe(self) -> Probe:
        """What three tokens of text tell about the model; run once."""
        if self._probe is not None:
            return self._probe
        model = self.model
        head, base = model.get_output_embeddings(), model.base_model
        config = model.config.get_text_config()
        size = config.vocab_size
        tokens = torch.tensor([[1 % size, 2 % size, 1 % size]], device=model.device)
        inputs = self.accepted({"input_ids": tokens, "attention_mask": torch.ones_like(tokens)})
        output = model(**inputs, use_cache=True)
        gatherable = is_gatherable(getattr(output, "past_key_values", None), tokens.shape[1])
        scaled = any(getattr(config, name, None) not in (None, 1, 1.0) for name in _SCALED_LOGITS)
        linear = None
        inputs_differ = not self.names - _OF_THE_HEAD <= _names(base)
        if head is not None and base is not model and not scaled and not inputs_differ:
            by_head = head(base(**inputs, use_cache=False)[0])
            if by_head.shape == output.logits.shape and torch.allclose(
                output.logits.float(), by_head.float(), rtol=1e-3, atol=1e-4
            ):
                linear = head
        self._probe = Probe(head=linear, gatherable=gatherable)
        return self._probe


def _names(module: Any) -> set[str]:
    return set(inspect.signature(module.forward).parameters)
