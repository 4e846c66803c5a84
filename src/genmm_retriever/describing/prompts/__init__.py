"""Every prompt of the package in one place, by what it is for.

A model says by its attribute `prompt_style` which form it knows: `"builtin"` for the short
forms that the builtin model was trained on, `"instruct"` (the default) for instructions that
any chat model follows. What users or items bring is data: it is cleaned of chat markup, cut
to a bounded length and, for instructed models, fenced.

An index remembers `PROMPT_VERSION`; change it with any wording of `finding` or `items`. A file of
triplets remembers `TRIPLETS_VERSION`.
"""

from genmm_retriever.describing.prompts.data import (
    MAX_DATA_WORDS,
    data_text,
    style_of,
)
from genmm_retriever.describing.prompts.finding import (
    clue_prompt,
    identify_prompt,
    null_prompt,
)
from genmm_retriever.describing.prompts.items import (
    describe_prompt,
    pseudo_query_prompt,
    query_given_item_prompt,
)
from genmm_retriever.describing.prompts.judging import (
    MAX_OPTION_WORDS,
    OPTION_LETTERS,
    choice_prompt,
    yesno_prompt,
)
from genmm_retriever.describing.prompts.triplets import TRIPLETS_VERSION, change_prompt

PROMPT_VERSION = "1"

__all__ = [
    "MAX_DATA_WORDS",
    "MAX_OPTION_WORDS",
    "OPTION_LETTERS",
    "PROMPT_VERSION",
    "TRIPLETS_VERSION",
    "change_prompt",
    "choice_prompt",
    "clue_prompt",
    "data_text",
    "describe_prompt",
    "identify_prompt",
    "null_prompt",
    "pseudo_query_prompt",
    "query_given_item_prompt",
    "style_of",
    "yesno_prompt",
]
