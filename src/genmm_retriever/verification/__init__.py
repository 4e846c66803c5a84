"""Is it really the one: the model checks the few candidates that its identifiers named."""

from genmm_retriever.verification.budget import Budget
from genmm_retriever.verification.calibration import Calibration, Texts, texts_sought
from genmm_retriever.verification.choice import ChoiceVerifier
from genmm_retriever.verification.features import CandidateView, Parts, QueryVectors, QueryView
from genmm_retriever.verification.likelihood import LikelihoodVerifier
from genmm_retriever.verification.making import make_verifier
from genmm_retriever.verification.protocol import Verifier, verify_all
from genmm_retriever.verification.yesno import YesNoVerifier

__all__ = [
    "Budget",
    "Calibration",
    "CandidateView",
    "ChoiceVerifier",
    "LikelihoodVerifier",
    "Parts",
    "QueryVectors",
    "QueryView",
    "Texts",
    "Verifier",
    "YesNoVerifier",
    "make_verifier",
    "texts_sought",
    "verify_all",
]
