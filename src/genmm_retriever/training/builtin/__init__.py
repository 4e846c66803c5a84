"""Training of the builtin model: projector, adapter, contrastive heads, composer."""

from genmm_retriever.training.builtin.composing import train_composer
from genmm_retriever.training.builtin.matching import train_matching
from genmm_retriever.training.builtin.train import train

__all__ = ["train", "train_composer", "train_matching"]
