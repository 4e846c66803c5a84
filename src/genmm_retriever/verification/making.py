"""Verifiers by name."""

from __future__ import annotations

from typing import Literal

from genmm_retriever.errors import InputError
from genmm_retriever.models.base import MLLM
from genmm_retriever.verification.budget import Budget
from genmm_retriever.verification.calibration import Calibration, Texts
from genmm_retriever.verification.choice import GROUP, ChoiceVerifier
from genmm_retriever.verification.likelihood import LikelihoodVerifier
from genmm_retriever.verification.protocol import Verifier
from genmm_retriever.verification.yesno import YesNoVerifier

_USUAL = {"likelihood": 16, "choice": GROUP, "yesno": 16}


def make_verifier(
    name: str,
    model: MLLM,
    *,
    budget: int | Literal["auto"] | None = "auto",
    budget_ms: float | None = None,
    cascade: bool | None = None,
    texts: Texts | None = None,
    encoder_scale: float | None = None,
) -> Verifier:
    """A verifier with a budget.

    Args:
        name: `"likelihood"`, `"choice"` or `"yesno"`.
        model: The language model.
        budget: Candidates that are looked at; None for all, `"auto"` for what is usual: the 10
            that SemCORE shows where the model chooses, else 16.
        budget_ms: Milliseconds that verifying a query may take; None for no limit.
        cascade: Of the likelihood; the others have no stages.
        texts: How they are looked for, where no picture is a candidate; the likelihood's weights
            are then those of `Calibration.for_texts`.
        encoder_scale: Of the contrastive encoder that stands in for the model's own head; the
            likelihood's weights are then those of `Calibration.with_encoder`.

    Raises:
        InputError: If there is no verifier of that name.
    """
    if name not in _USUAL:
        raise InputError(f"there is no verifier {name!r}", f"one of {', '.join(_USUAL)}")
    limits = Budget(_USUAL[name] if budget == "auto" else budget, budget_ms)
    if name == "choice":
        return ChoiceVerifier(model, budget=limits)
    if name == "yesno":
        return YesNoVerifier(model, budget=limits)
    weights = Calibration.of(model)
    if texts is not None:
        weights = weights.for_texts(texts)
    if encoder_scale is not None:
        weights = weights.with_encoder(encoder_scale)
    return LikelihoodVerifier(model, budget=limits, calibration=weights, cascade=cascade)
