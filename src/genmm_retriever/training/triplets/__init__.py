"""Triplets for composed retrieval: a picture, what is to change, and the picture that is meant."""

from genmm_retriever.training.triplets.book import (
    KnownTriplet,
    Triplet,
    read_lines,
    read_triplets,
)
from genmm_retriever.training.triplets.making import TripletReport, synthesize_triplets
from genmm_retriever.training.triplets.mining import ImagePair, mine_pairs
from genmm_retriever.training.triplets.synthesizer import Outcome, TripletSynthesizer

__all__ = [
    "ImagePair",
    "KnownTriplet",
    "Outcome",
    "Triplet",
    "TripletReport",
    "TripletSynthesizer",
    "mine_pairs",
    "read_lines",
    "read_triplets",
    "synthesize_triplets",
]
