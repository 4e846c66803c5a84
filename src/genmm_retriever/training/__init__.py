"""Training: what `genmm train` runs."""

from genmm_retriever.training.exam import Figures
from genmm_retriever.training.train import TrainingReport, train_index

__all__ = ["Figures", "TrainingReport", "train_index"]
