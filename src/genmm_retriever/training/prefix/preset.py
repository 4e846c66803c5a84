"""GeMKR's training settings, as its published code has them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from genmm_retriever.errors import MissingExtraError


@dataclass(frozen=True)
class GemkrPreset:
    """Settings of LoRA and optimiser; the defaults are those of the paper's published code.

    They are for LLaMA-7B with 20,000 examples. The shape of the warm-up (a straight line from
    nought) is ours.

    Attributes:
        rank: r of LoRA.
        alpha: Of LoRA; the update is scaled by alpha / r.
        dropout: Of LoRA's input.
        target_modules: Linear layers with LoRA: queries and values.
        learning_rate: At the end of the warm-up.
        final_learning_rate: Where the cosine ends.
        warmup_steps: Steps of warm-up.
        weight_decay: Of AdamW.
        batch: Examples a step.
        epochs: Of `steps_per_epoch` steps each.
        steps_per_epoch: Steps an epoch.
        blocks: Vision blocks with prompts, counted from the last.
        regions: Regions a picture.

    References:
        Long et al., arXiv 2401.08206.
    """

    rank: int = 8
    alpha: int = 16
    dropout: float = 0.05
    target_modules: tuple[str, ...] = ("q_proj", "v_proj")
    learning_rate: float = 6e-5
    final_learning_rate: float = 1e-5
    warmup_steps: int = 200
    weight_decay: float = 0.05
    batch: int = 12
    epochs: int = 5
    steps_per_epoch: int = 2400
    blocks: int = 20
    regions: int = 10

    @property
    def steps(self) -> int:
        """Of the whole training."""
        return self.epochs * self.steps_per_epoch

    def rate_at(self, step: int) -> float:
        """Learning rate of a step, counted from nought.

        Examples:
            >>> [GEMKR.rate_at(step) for step in (0, 199, GEMKR.steps)]
            [3e-07, 6e-05, 1e-05]
        """
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        fall = (1 + math.cos(math.pi * min(1.0, done))) / 2
        return self.final_learning_rate + (self.learning_rate - self.final_learning_rate) * fall

    def lora_config(self) -> Any:
        """A `peft.LoraConfig` for a causal language model.

        Raises:
            MissingExtraError: If PEFT is not installed.
        """
        try:
            from peft import LoraConfig
        except ImportError as error:
            raise MissingExtraError("peft", "models") from error
        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=list(self.target_modules),
            task_type="CAUSAL_LM",
        )


GEMKR = GemkrPreset()
"""The values of the paper's published code."""
