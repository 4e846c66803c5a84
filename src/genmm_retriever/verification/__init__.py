"""Is it really the one: the model checks the few candidates that its identifiers named."""

from genmm_retriever.verification.budget import Budget
from genmm_retriever.verification.calibration import Calibration
from genmm_retriever.verification.features import CandidateView, Parts, QueryView
from genmm_retriever.verification.likelihood import LikelihoodVerifier

__all__ = ["Budget", "Calibration", "CandidateView", "LikelihoodVerifier", "Parts", "QueryView"]
