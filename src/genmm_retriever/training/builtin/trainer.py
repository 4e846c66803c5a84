"""The training loop: stages of packed batches, bf16, interruptible and resumable."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from genmm_retriever.models.builtin.modeling import GenmmBuiltinForConditionalGeneration
from genmm_retriever.training.builtin import checkpoint
from genmm_retriever.training.builtin.packing import PackedBatch, answer_logprobs
from genmm_retriever.training.rates import warm_cosine
from genmm_retriever.training.storing import storing

StepLoss = Callable[["Learner"], tuple[Tensor, dict[str, float]]]


@dataclass(frozen=True)
class Stage:
    """One part of the training.

    Args:
        name: Folder of its checkpoint and title of its progress bar.
        steps: Optimiser steps.
        learning_rate: Peak of the LoRA learning rate; warm-up, then cosine to a tenth.
        projector_rate: Peak for the projector and the object words.
        minutes: Stop early after so many minutes of this run, scheduling the decay to end
            there; None for no limit.
        warmup: Steps of linear warm-up.
        save_every: Steps between checkpoints.
    """

    name: str
    steps: int
    learning_rate: float = 5e-4
    projector_rate: float = 1e-3
    minutes: float | None = None
    warmup: int = 50
    save_every: int = 100


class Learner:
    """The model in training: what is trainable, and one packed forward pass.

    Args:
        model: With the LoRA layers already injected into `language_model`.
        device: Where to train.
    """

    def __init__(self, model: GenmmBuiltinForConditionalGeneration, device: torch.device) -> None:
        self.model = model.to(device)  # type: ignore[arg-type]
        self.device = device
        for name, value in model.named_parameters():
            value.requires_grad_(
                "lora_" in name or name.startswith(("model.projector.", "model.objects."))
            )
        self.trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}

    def logprobs(self, batch: PackedBatch, features: Tensor | None) -> tuple[Tensor, Tensor]:
        """Answers' log-probabilities [answers] in nats and the mean NLL a token."""
        model = self.model
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            embeds = model.model.embed(
                batch.input_ids.to(self.device),
                image_features=None if features is None else features.to(self.device),
            )
            hidden = model.model.language_model(
                inputs_embeds=embeds,
                attention_mask=batch.mask.to(self.device),
                position_ids=batch.position_ids.to(self.device),
                use_cache=False,
            ).last_hidden_state
            return answer_logprobs(hidden, model.lm_head, batch)


def run_stage(
    learner: Learner,
    stage: Stage,
    losses: Iterator[StepLoss],
    folder: Path,
    *,
    progress: bool = True,
) -> dict[str, float]:
    """Train one stage; a finished one is skipped, an interrupted one goes on.

    Args:
        learner: The model.
        stage: What to do.
        losses: One loss a step, a pure function of the step's number: on resuming, as many
            as were done are skipped.
        folder: Checkpoints lie in `folder / stage.name`.
        progress: Whether to show a bar on stderr.

    Returns:
        Running means of the last metrics.
    """
    place = folder / stage.name
    groups = [
        {
            "params": [p for n, p in learner.trainable.items() if "lora_" in n],
            "rate": stage.learning_rate,
        },
        {
            "params": [p for n, p in learner.trainable.items() if "lora_" not in n],
            "rate": stage.projector_rate,
        },
    ]
    optimiser = torch.optim.AdamW(
        groups, lr=stage.learning_rate, weight_decay=0.01, betas=(0.9, 0.98)
    )
    done = checkpoint.load(place, learner.trainable, optimiser) or {
        "step": 0,
        "means": {},
        "finished": False,
    }
    if done["finished"]:
        return dict(done["means"])
    for _ in range(done["step"]):
        next(losses)
    means: dict[str, float] = dict(done["means"])
    start, first = time.monotonic(), int(done["step"])
    learner.model.train()
    bar = tqdm(
        range(first, stage.steps),
        initial=first,
        total=stage.steps,
        desc=stage.name,
        disable=not progress,
        mininterval=10,
    )
    step = first
    for done_before in bar:
        step = done_before
        share = step / stage.steps
        if stage.minutes is not None:
            share = max(share, (time.monotonic() - start) / (60 * stage.minutes))
        if share >= 1:
            break
        factor = warm_cosine(step, stage.warmup, share)
        for group in optimiser.param_groups:
            group["lr"] = group["rate"] * factor
        # Dropout of a step does not depend on where a run was interrupted.
        torch.manual_seed(zlib.crc32(f"{stage.name}-{step}".encode()))
        loss, metrics = next(losses)(learner)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(list(learner.trainable.values()), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        for name, value in metrics.items():
            means[name] = value if name not in means else 0.98 * means[name] + 0.02 * value
        bar.set_postfix({name: f"{value:.3f}" for name, value in means.items()}, refresh=False)
        step = done_before + 1
        if step % stage.save_every == 0:
            with storing(place):
                checkpoint.save(
                    place,
                    learner.trainable,
                    optimiser,
                    {"step": step, "means": means, "finished": False},
                )
    means["steps"] = step
    with storing(place):
        checkpoint.save(
            place, learner.trainable, optimiser, {"step": step, "means": means, "finished": True}
        )
    return means
