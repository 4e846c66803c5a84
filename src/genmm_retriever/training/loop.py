"""The training loop: resumable at any step, examined now and then, stopped when it no longer helps.

A run is a pure function of its seed: each step depends on the seed, its number and the weights
before it, so a run that was killed and goes on ends like one that was not.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from tqdm import tqdm

from genmm_retriever.training.builtin import checkpoint
from genmm_retriever.training.exam import Exam, Figures
from genmm_retriever.training.learner import Learner
from genmm_retriever.training.lessons import Curriculum
from genmm_retriever.training.lora import Adapted
from genmm_retriever.training.rates import warm_cosine
from genmm_retriever.training.storing import storing

PATIENCE = 3
_SAVE_EVERY_SECONDS = 60.0
_SMOOTHING = 0.1


@dataclass(frozen=True)
class Schedule:
    """How long and how fast.

    Args:
        steps: Optimiser steps at most.
        learning_rate: The peak; linear warm-up over a tenth of the steps (100 at most), then
            half a cosine down to a tenth.
        examine_every: Steps between examinations on held-out queries.
        search: Whether examinations search, or only measure the loss; the model is searched
            before and after in any case.
        minutes: Stop after so many minutes of training, the decay ending there; None for no
            limit. A run with a limit is no longer a pure function of its seed.
    """

    steps: int
    learning_rate: float
    examine_every: int
    search: bool = True
    minutes: float | None = None

    def factor(self, step: int, share: float) -> float:
        """What the peak is multiplied by."""
        warmup = min(100, max(1, self.steps // 10))
        return warm_cosine(step, warmup, share)


@dataclass
class Progress:
    """How far a run is; written with every checkpoint.

    Attributes:
        key: What the run is a function of; another key is another run.
        step: Steps done.
        seconds: Spent on them.
        loss: Running mean of the training loss.
        history: Examinations as (step, figures).
        best: Step of the best examination, or None.
        since_best: Examinations since then.
        finished: Whether there is nothing left to do.
    """

    key: str
    step: int = 0
    seconds: float = 0.0
    loss: float | None = None
    history: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    best: int | None = None
    since_best: int = 0
    finished: bool = False


def run(
    adapted: Adapted,
    curriculum: Curriculum,
    exam: Exam,
    schedule: Schedule,
    folder: Path,
    *,
    key: str,
    progress: bool = True,
    interrupt: Callable[[int], None] | None = None,
) -> Progress:
    """Train, or go on with the run of the same key; the best adapter is in `folder / "best"`.

    Args:
        adapted: The model with its LoRA layers.
        curriculum: What each step shows.
        exam: Held-out queries.
        schedule: How long and how fast.
        folder: Of the run's state.
        key: What the run is a function of.
        progress: Whether to show a bar on stderr.
        interrupt: Called with each step's number before it; what it raises ends the run as
            Ctrl-C does.

    Returns:
        The finished run.

    Raises:
        KeyboardInterrupt: After Ctrl-C; the state is kept, the same call goes on from there.
    """
    parameters = adapted.trainable
    optimiser = torch.optim.AdamW(
        list(parameters.values()), lr=schedule.learning_rate, weight_decay=0.0, betas=(0.9, 0.98)
    )
    done = _resumed(folder, key, parameters, optimiser)
    keeper = _Keeper(folder, parameters, optimiser, done)
    learner = Learner(adapted.mllm)
    bar = tqdm(
        initial=done.step,
        total=schedule.steps,
        desc="training",
        disable=not progress or done.finished,
        mininterval=1,
    )
    with bar, keeper:
        if done.step and not done.finished:
            bar.write(f"going on from step {done.step:,}", file=sys.stderr)
        while not done.finished:
            if interrupt is not None:
                interrupt(done.step)
            share = _share(done, schedule)
            # After an interruption too, an examination comes between its steps.
            if _is_due(done, schedule, share):
                _examine(adapted, exam, keeper, search=schedule.search)
                done.finished = share >= 1 or done.since_best >= PATIENCE
                keeper.save()
            else:
                _step(learner, curriculum, schedule, share, keeper)
                bar.update(1)
                keeper.save_now_and_then()
            _show(bar, done)
    return done


class _Keeper:
    """Saves a run now and then, and when something ends it between two steps.

    What ends it within a change (`changing`) leaves the last save as it was.
    """

    def __init__(
        self,
        folder: Path,
        parameters: checkpoint.Trainable,
        optimiser: torch.optim.Optimizer,
        done: Progress,
    ) -> None:
        self.folder, self.parameters, self.optimiser = folder, parameters, optimiser
        self.done = done
        self._whole = True
        self._saved = time.monotonic()

    def save(self) -> None:
        """Write the state; a kill at any moment leaves the old one or the new one."""
        with storing(self.folder):
            checkpoint.save(self.folder, self.parameters, self.optimiser, vars(self.done))
        self._saved = time.monotonic()

    def save_now_and_then(self) -> None:
        if time.monotonic() - self._saved > _SAVE_EVERY_SECONDS:
            self.save()

    @contextmanager
    def changing(self) -> Iterator[None]:
        self._whole = False
        yield
        self._whole = True

    def __enter__(self) -> _Keeper:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and self._whole and self.done.step:
            self.save()


def _step(
    learner: Learner, curriculum: Curriculum, schedule: Schedule, share: float, keeper: _Keeper
) -> None:
    begun = time.monotonic()
    done = keeper.done
    for group in keeper.optimiser.param_groups:
        group["lr"] = schedule.learning_rate * schedule.factor(done.step, share)
    # What a step left behind when it was broken off does not count.
    keeper.optimiser.zero_grad(set_to_none=True)
    loss = learner.step(curriculum.step(done.step))
    torch.nn.utils.clip_grad_norm_(list(keeper.parameters.values()), 1.0)
    with keeper.changing():
        keeper.optimiser.step()
        done.step += 1
        before = loss if done.loss is None else done.loss
        done.loss = (1 - _SMOOTHING) * before + _SMOOTHING * loss
        done.seconds += time.monotonic() - begun


def _is_due(done: Progress, schedule: Schedule, share: float) -> bool:
    if not done.step or (done.history and done.history[-1][0] == done.step):
        return False
    return share >= 1 or done.step % schedule.examine_every == 0


def _share(done: Progress, schedule: Schedule) -> float:
    share = done.step / schedule.steps
    if schedule.minutes is None:
        return share
    return max(share, done.seconds / (60 * schedule.minutes))


def _resumed(
    folder: Path,
    key: str,
    parameters: checkpoint.Trainable,
    optimiser: torch.optim.Optimizer,
) -> Progress:
    """The run of this key as far as it came, its weights in place; or a new one."""
    kept = progress_of(folder)
    if kept is None or kept.key != key:
        shutil.rmtree(folder, ignore_errors=True)
        return Progress(key)
    checkpoint.load(folder, parameters, optimiser)
    return kept


def progress_of(folder: Path) -> Progress | None:
    """How far the run in a folder came, or None if there is none that can be read."""
    path = folder / "state.safetensors"
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            kept = json.loads(file.metadata()["progress"])
        kept["history"] = [(int(step), figures) for step, figures in kept["history"]]
        return Progress(**kept)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return None


def _examine(adapted: Adapted, exam: Exam, keeper: _Keeper, *, search: bool) -> None:
    done, folder = keeper.done, keeper.folder
    figures = exam.sit(adapted.mllm, search=search)
    best = None if done.best is None else figures_at(done, done.best)
    better = best is None or _rank(figures) > _rank(best)
    if better:
        fresh = folder / "best-new"
        shutil.rmtree(fresh, ignore_errors=True)
        with storing(fresh):
            adapted.save(fresh)
        shutil.rmtree(folder / "best", ignore_errors=True)
        fresh.replace(folder / "best")
    with keeper.changing():
        done.history.append((done.step, figures.to_json()))
        done.best, done.since_best = (done.step, 0) if better else (done.best, done.since_best + 1)


def _rank(figures: Figures) -> tuple[float, float]:
    return figures.mean_recall, -figures.mean_loss


def figures_at(done: Progress, step: int) -> Figures:
    """What the examination after a step found."""
    return Figures.from_json(dict(done.history)[step])


def _show(bar: Any, done: Progress) -> None:
    shown = {} if done.loss is None else {"loss": f"{done.loss:.3f}"}
    if done.history:
        recall = done.history[-1][1]["recall"]
        shown |= {f"R@{k}": f"{value:.1f}" for k, value in recall.items()}
    bar.set_postfix(shown, refresh=False)
