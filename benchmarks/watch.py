"""Where a search spends its time: in the model's forward passes, beside them, or elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

_METHODS = ("prefill", "step", "extend", "score_from", "score")


@dataclass
class Watch:
    """Seconds and counts of everything between `watching` and its end.

    Attributes:
        forward: Seconds inside the model's modules, by the protocol's method that called them.
        methods: Seconds inside the protocol's methods, the modules included.
        passes: Forward passes of the whole model (its vocabulary head alone is none).
        tokens: Token ids fed, padding included.
    """

    forward: dict[str, float] = field(default_factory=dict)
    methods: dict[str, float] = field(default_factory=dict)
    passes: int = 0
    tokens: int = 0

    def after_prompt(self, whole: float) -> tuple[float, float, float]:
        """Seconds without the prompt's own pass: whole search, in modules, in methods."""
        spent = self.methods.get("prefill", 0.0)
        modules = sum(s for name, s in self.forward.items() if name != "prefill")
        return whole - spent, modules, sum(self.methods.values()) - spent


@contextmanager
def watching(mllm: Any) -> Iterator[Watch]:
    """Count and time a `TransformersMLLM` while the block runs.

    Hooks stand on the whole model, on its body and on its vocabulary head; only the outermost
    of nested ones counts. On a GPU each reading waits for the device.
    """
    watch = Watch()
    clock = _Clock(watch, mllm)
    removals = [hook for module in clock.modules() for hook in clock.hook(module)]
    wrapped = [name for name in _METHODS if hasattr(mllm, name)]
    for name in wrapped:
        setattr(mllm, name, clock.method(name, getattr(mllm, name)))
    try:
        yield watch
    finally:
        for name in wrapped:
            delattr(mllm, name)
        for removal in removals:
            removal.remove()


class _Clock:
    def __init__(self, watch: Watch, mllm: Any) -> None:
        self.watch, self.mllm = watch, mllm
        self.inside: list[str] = []
        self.depth = 0
        self.began = 0.0

    def modules(self) -> list[Any]:
        """The whole model, its body, and its head, each once."""
        model = self.mllm.model
        found = [model, model.base_model, model.get_output_embeddings()]
        return [one for i, one in enumerate(found) if one is not None and one not in found[:i]]

    def hook(self, module: Any) -> list[Any]:
        is_body = module is self.mllm.model.base_model

        def before(_: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            if is_body:
                self.watch.passes += 1
                fed = named.get("input_ids", given[0] if given else None)
                fed = named.get("inputs_embeds") if fed is None else fed
                self.watch.tokens += 0 if fed is None else fed.shape[0] * fed.shape[1]
            if self.depth == 0:
                self.began = self.now()
            self.depth += 1

        def after(*_: Any) -> None:
            self.depth -= 1
            if self.depth == 0:
                name = self.inside[0] if self.inside else "elsewhere"
                spent = self.now() - self.began
                self.watch.forward[name] = self.watch.forward.get(name, 0.0) + spent

        return [
            module.register_forward_pre_hook(before, with_kwargs=True),
            module.register_forward_hook(after),
        ]

    def method(self, name: str, original: Any) -> Any:
        def run(*given: Any, **named: Any) -> Any:
            started = self.now()
            self.inside.append(name)
            try:
                return original(*given, **named)
            finally:
                self.inside.pop()
                if not self.inside:
                    spent = self.now() - started
                    self.watch.methods[name] = self.watch.methods.get(name, 0.0) + spent

        return run

    def now(self) -> float:
        if self.mllm.device.type == "cuda":
            import torch

            torch.cuda.synchronize()
        return time.perf_counter()
