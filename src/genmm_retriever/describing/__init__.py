"""Pictures into words: the prompts of every room, captions that are fit to be indexed, notes."""

from genmm_retriever.describing.cleaning import (
    MAX_WORDS,
    clean_caption,
    quotation,
    text_descriptions,
)
from genmm_retriever.describing.describer import Describer
from genmm_retriever.describing.noting import NotesReport, describe_index
from genmm_retriever.describing.prompts import (
    PROMPT_VERSION,
    clue_prompt,
    describe_prompt,
    identify_prompt,
    null_prompt,
    query_given_item_prompt,
)

__all__ = [
    "MAX_WORDS",
    "PROMPT_VERSION",
    "Describer",
    "NotesReport",
    "clean_caption",
    "clue_prompt",
    "describe_index",
    "describe_prompt",
    "identify_prompt",
    "null_prompt",
    "query_given_item_prompt",
    "quotation",
    "text_descriptions",
]
