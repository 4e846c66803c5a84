"""What several claims set up alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.corpora import models
from benchmarks.corpora.identifiers import Identifiers, Lexicon, synthetic, wordnet
from benchmarks.harness import Options
from genmm_retriever.constraints import TokenTrie
from genmm_retriever.decoding import BeamConfig, Hypothesis, constrained_beam_search
from genmm_retriever.models.base import Prompt

BEAMS = 20
WANTED = 10


def made_up(mllm: Any, count: int, seed: int) -> Identifiers:
    """Synthetic identifiers in the tokens of a model."""
    lexicon = Lexicon.of_tokenizer(mllm.tokenizer, mllm.eos_token_id)
    return synthetic(count, lexicon, seed=seed)


def of_wordnet(mllm: Any, options: Options, notes: list[str]) -> Identifiers | None:
    """The WordNet identifiers, or None and a note where the file was not given."""
    if options.wordnet is None or not options.wordnet.is_file():
        notes.append("WordNet was left out: give --wordnet knowledge/passages.jsonl")
        return None
    limit = 2_000 if options.quick else None
    return wordnet(options.wordnet, mllm.encode, mllm.eos_token_id, limit)


def make_trie(identifiers: Identifiers) -> TokenTrie:
    """Our trie of them, each naming an item of its own."""
    return TokenTrie.from_flat(identifiers.tokens, identifiers.offsets, identifiers.items)


def searcher(mllm: Any, trie: TokenTrie, **changes: Any) -> Callable[[Prompt], list[Hypothesis]]:
    """Our search of one prompt under the settings that transformers is given too.

    Plain likelihood, no length penalty, `BEAMS` beams, the best `WANTED` identifiers. That few
    identifiers left under the beams are scored at once is a part of the search.
    """
    settings: dict[str, Any] = {
        "num_beams": BEAMS,
        "debias": 0.0,
        "num_hypotheses": WANTED,
    }
    config = BeamConfig(**(settings | changes))

    def run(prompt: Prompt) -> list[Hypothesis]:
        return constrained_beam_search(mllm, [prompt], trie, config=config)[0]

    return run


def model_of(options: Options) -> Any:
    """The model of the options, warmed by one pass."""
    mllm = models.load(options.model)
    mllm.score(models.prompts(1), [[mllm.eos_token_id]])
    return mllm
