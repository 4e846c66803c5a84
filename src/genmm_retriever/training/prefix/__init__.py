"""Object-aware prefix tuning of a vision side, after GeMKR (arXiv 2401.08206).

Features of up to ten regions of a picture join learned prompts in the last blocks of a frozen
vision transformer; a gated second flow of attention reads them, and the language model sees
three visual tokens. `PrefixTuning` wraps the vision towers of transformers and open-clip,
`CellFlow` does the same over the grid features of a convolutional vision side.
"""

from genmm_retriever.training.prefix.attention import dual_flow_attention, prompt_flow
from genmm_retriever.training.prefix.cells import CellFlow
from genmm_retriever.training.prefix.preset import GEMKR, GemkrPreset
from genmm_retriever.training.prefix.projector import Seen
from genmm_retriever.training.prefix.regions import grid_regions, picture_regions, region_features
from genmm_retriever.training.prefix.saving import load_tuned, save_tuned
from genmm_retriever.training.prefix.towers import adapt_tower, open_clip_tower
from genmm_retriever.training.prefix.tuning import PrefixTuning

__all__ = [
    "GEMKR",
    "CellFlow",
    "GemkrPreset",
    "PrefixTuning",
    "Seen",
    "adapt_tower",
    "dual_flow_attention",
    "grid_regions",
    "load_tuned",
    "open_clip_tower",
    "picture_regions",
    "prompt_flow",
    "region_features",
    "save_tuned",
]
