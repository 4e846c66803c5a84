"""Other ways to ask for the same, all of which are asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from genmm_retriever.checks import as_queries
from genmm_retriever.describing import clean_caption
from genmm_retriever.describing.prompts.queries import expand_prompt, imagine_prompt
from genmm_retriever.errors import InputError
from genmm_retriever.models.base import Generator
from genmm_retriever.querying.adapters import with_context
from genmm_retriever.querying.forms import Expansions
from genmm_retriever.querying.writing import ask_for, is_builtin, write_freely
from genmm_retriever.schema import Query, QueryStep

MAX_EXPANSIONS = 8
MAX_WORDS = 24


class QueryExpander:
    """Writes what else somebody could ask for who looks for the same.

    Each expansion is the query with another `context`, so that it guides what is written while
    what is found is held against the query itself. All forms carry the step that tells the
    expansions. Queries with a picture are not expanded.

    Args:
        model: Writes.
        number: Expansions a query, at most.
        seed: Of the samples.

    Raises:
        InputError: If `number` is out of range.
    """

    name: ClassVar[str] = "expand"

    def __init__(self, model: Generator, *, number: int = 3, seed: int = 0) -> None:
        if not 1 <= number <= MAX_EXPANSIONS:
            raise InputError(f"number is {number!r}", f"give 1 to {MAX_EXPANSIONS} expansions")
        self.model, self.number, self.seed = model, number, seed

    def expand(self, query: str | Query) -> list[Query]:
        """The query itself and its expansions."""
        return self.expand_all([query])[0]

    def expand_all(self, queries: Sequence[str | Query]) -> list[list[Query]]:
        """As `expand`, for several queries in one batch."""
        asked = as_queries(queries)
        found = [[query] for query in asked]
        places = [i for i, query in enumerate(asked) if query.text and query.image is None]
        if places:
            written = self._written([asked[i].text or "" for i in places])
            for i, (texts, note, tokens, seconds) in zip(places, written, strict=True):
                step = QueryStep(
                    adapter=self.name,
                    text=f"{asked[i].text} [{'; '.join(texts)}]" if texts else asked[i].text or "",
                    changed=bool(texts),
                    note=note,
                    tokens=tokens,
                    seconds=seconds,
                )
                found[i] = [_with_context(asked[i], one, step) for one in [None, *texts]]
        return found

    def _written(
        self, texts: Sequence[str]
    ) -> list[tuple[list[str], str | None, int | None, float]]:
        if is_builtin(self.model):
            prompts = [imagine_prompt(text) for text in texts]
            free = write_freely(
                self.model, prompts, number=self.number + 1, max_words=MAX_WORDS, seed=self.seed
            )
            return [(one.texts[: self.number], None, one.tokens, one.seconds) for one in free]
        prompts = [expand_prompt(text, self.number) for text in texts]
        found = []
        for one in ask_for(self.model, prompts, Expansions, seed=self.seed):
            written = [] if one.value is None else one.value.queries
            clean = (clean_caption(text, max_words=MAX_WORDS) for text in written)
            distinct = list(dict.fromkeys(text for text in clean if text))
            found.append((distinct[: self.number], one.problem, one.tokens, one.seconds))
        return found


def _with_context(query: Query, context: str | None, step: QueryStep) -> Query:
    # All forms tell the same step: what is fused of their hits is owed to all of them.
    update = {"context": with_context(query.context, context), "steps": (*query.steps, step)}
    return query.model_copy(update=update)
