"""Training of the builtin model: projector, adapter and contrastive head."""

from genmm_retriever.training.builtin.train import train

__all__ = ["train"]
