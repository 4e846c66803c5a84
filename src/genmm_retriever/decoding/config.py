"""Settings of the constrained search."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from genmm_retriever.errors import InputError


@dataclass(frozen=True)
class BeamConfig:
    """How wide and how far the search looks.

    A hypothesis scores `(log p(tokens | query) - debias * log p(tokens | no query))`, divided
    by `length ** length_penalty` once it is finished; length counts the end token.

    Attributes:
        num_beams: Unfinished hypotheses that survive a step, for each query.
        debias: Weight of the unconditional log-probability; 0 ranks by plain likelihood, 1 by
            pointwise mutual information (as in TIGeR, arXiv 2406.05814).
        max_leaves_exact: Once at most this many identifiers are left under a query's beams,
            all of them are scored, in one pass; 0 never stops pruning.
        open_leaves: A beam under which at most this many identifiers are left is not written
            further: all of them get its score, the rest of each is left open (as WIDE leaves
            uncertain levels open). So a collection decides how much of an identifier is
            needed: in a small one its topic, in a large one its keywords too. 0 writes all.
        level_end: The token that ends a level, such as a comma. Beams are then left open behind
            it alone, so that all of them are written to the end of a level and compare; None
            leaves them open at any choice.
        length_penalty: Exponent of the length; 0 leaves scores as they are.
        compat: "genmm" keeps every finished hypothesis and finishes exactly. "hf" takes the
            decisions of `transformers.generate` 5.x beam search step by step: the best
            2 * num_beams continuations a step, of which those among the best num_beams may
            finish; a pool of num_beams finished ones; early_stopping=False, its default.
        num_hypotheses: Hypotheses wanted for each query. None returns all that were finished
            (in "hf" num_beams). If given, beams that provably cannot be among them are
            dropped early ("genmm", length_penalty 0), which changes no result.
        score: "global" scores by the model's probabilities over its whole vocabulary, as
            transformers and GENRE do. "local" renormalises over the legal tokens of each
            step: a token without alternative is certain, so identifiers cost fewer passes.

    Raises:
        InputError: If a value is out of range.
    """

    num_beams: int = 50
    debias: float = 1.0
    max_leaves_exact: int = 256
    open_leaves: int = 0
    level_end: int | None = None
    length_penalty: float = 0.0
    compat: Literal["genmm", "hf"] = "genmm"
    num_hypotheses: int | None = None
    score: Literal["global", "local"] = "global"

    def __post_init__(self) -> None:
        for name, least in (("num_beams", 1), ("max_leaves_exact", 0), ("open_leaves", 0)):
            if getattr(self, name) < least:
                raise InputError(
                    f"{name} is {getattr(self, name)}", f"give an integer of at least {least}"
                )
        if self.num_hypotheses is not None and self.num_hypotheses < 1:
            raise InputError(f"num_hypotheses is {self.num_hypotheses}", "give 1 or more, or None")
        if not (math.isfinite(self.debias) and self.debias >= 0):
            raise InputError(f"debias is {self.debias}", "give a finite weight of at least 0")
        if not math.isfinite(self.length_penalty):
            raise InputError(f"length_penalty is {self.length_penalty}", "give a finite exponent")
        if self.compat not in ("genmm", "hf"):
            raise InputError(f"compat is {self.compat!r}", 'give "genmm" or "hf"')
        if self.score not in ("global", "local"):
            raise InputError(f"score is {self.score!r}", 'give "global" or "local"')
        if self.open_leaves and self.compat == "hf":
            raise InputError("transformers leaves no level open", "give open_leaves=0")
        if self.score == "local" and self.compat == "hf":
            raise InputError("transformers has no local score", 'give score="global"')
