"""Training: what `genmm train` and `genmm triplets` run."""

from genmm_retriever.training.exam import Figures
from genmm_retriever.training.options import TrainingReport
from genmm_retriever.training.train import train_index
from genmm_retriever.training.triplets import (
    TripletReport,
    TripletSynthesizer,
    synthesize_triplets,
)

__all__ = [
    "Figures",
    "TrainingReport",
    "TripletReport",
    "TripletSynthesizer",
    "synthesize_triplets",
    "train_index",
]
