"""Commands that ask an index: search, ask and eval."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..checks import MAX_K, check_threshold
from ..errors import QueryError
from ..schema import FoundClue, GeneratedIdentifier, Hit, Query, QueryStep
from .console import Console, command, printable
from .options import (
    Adapt,
    Beams,
    Budget,
    Conditions,
    Device,
    Direction,
    IndexPath,
    Kind,
    Limit,
    Model,
    OfKind,
    Vectors,
    Verify,
    Writer,
    parse_adapters,
    parse_budget,
    parse_cutoffs,
    parse_filters,
)
from .scores import shown_score

if TYPE_CHECKING:
    from ..querying import Answer, Searcher
    from ..retriever import GenerativeMMRetriever


def register(app: typer.Typer) -> None:
    """Add search, ask and eval."""
    command(app, "search", example='genmm search photos.genmm "a dog in the snow" -k 5')(search)
    command(app, "ask", example='genmm ask photos.genmm "What does the dog catch?"')(ask)
    command(app, "eval", example="genmm eval dev.genmm dev.jsonl --limit 500 --json")(evaluate)


def search(
    console: Console,
    index: IndexPath,
    text: Annotated[
        str | None, typer.Argument(help="What to look for; with --image, what to change.")
    ] = None,
    image: Annotated[
        str | None, typer.Option("--image", "-i", metavar="FILE", help="Picture to look for.")
    ] = None,
    k: Annotated[
        int, typer.Option("-k", min=1, max=MAX_K, help=f"How many hits, 1 to {MAX_K:,}.")
    ] = 10,
    conditions: Conditions = None,
    kind: OfKind = None,
    verify: Annotated[Verify, typer.Option(help="How candidates are checked.")] = Verify.likelihood,
    budget: Budget = None,
    model: Model = None,
    device: Device = None,
    vectors: Vectors = True,
    beams: Beams = None,
    adapt: Adapt = None,
    writer: Writer = None,
) -> None:
    """Find items by words, by a picture, or by a picture and what to change in it."""
    if image is None and not (text and text.strip()):
        raise QueryError("there is no query", "give TEXT, --image FILE, or both")
    query = _query(text, image, conditions, kind)
    limits = parse_budget(budget)
    names = parse_adapters(adapt, writer)
    from ..retriever import GenerativeMMRetriever

    with GenerativeMMRetriever.from_index(
        index,
        model=model,
        k=k,
        verify=verify.value,
        num_beams=beams,
        device=device,
        contrastive=None if vectors else False,
        **limits,
    ) as retriever:
        hits = with_adapters(retriever, names, writer, device).retrieve(query)
        lacks = query.kind is not None and not hits and not retriever.info()[f"{query.kind}s"]
    asked = query.model_dump(mode="json") | {"k": k, "verify": verify.value}
    said = f"the index holds no item of the kind {query.kind}" if lacks else render_hits(hits)
    console.result({"query": asked, "hits": [hit.to_json() for hit in hits]}, said)


def ask(
    console: Console,
    index: IndexPath,
    question: Annotated[str, typer.Argument(help="What to answer from the index.")],
    image: Annotated[
        str | None, typer.Option("--image", "-i", metavar="FILE", help="Picture it is about.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=20, help="How many sources to read.")] = 3,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Say 'not found' where the best hit is less likely; by default "
            "what was calibrated.",
        ),
    ] = None,
    conditions: Conditions = None,
    kind: OfKind = None,
    verify: Annotated[Verify, typer.Option(help="How candidates are checked.")] = Verify.likelihood,
    model: Model = None,
    device: Device = None,
    vectors: Vectors = True,
    adapt: Adapt = None,
    writer: Writer = None,
) -> None:
    """Answer a question from what the index holds, or say that it does not hold it.

    The model that wrote the index answers, or that of --writer. The builtin model cannot answer
    questions: it quotes what the index knows of the best hit.
    """
    if not question.strip():
        raise QueryError("there is no question", "give some words")
    query = _query(question, image, conditions, kind)
    names = parse_adapters(adapt, None)
    check_threshold(threshold, verify.value)
    from ..models.loading import load_generator
    from ..querying import Answerer, adapted
    from ..retriever import GenerativeMMRetriever

    with GenerativeMMRetriever.from_index(
        index,
        model=model,
        verify=verify.value,
        device=device,
        contrastive=None if vectors else False,
    ) as retriever:
        answers = None if writer is None else load_generator(writer, device=device)
        searcher = adapted(retriever, names, answers)
        answer = Answerer(searcher, answers, k=k, threshold=threshold).ask(query)
    asked = query.model_dump(mode="json") | {"k": k, "verify": verify.value}
    console.result({"query": asked, **answer.to_json()}, render_answer(answer))


def _query(
    text: str | None, image: str | None, conditions: list[str] | None, kind: Kind | None
) -> Query:
    """What the options of a command ask for."""
    return Query(
        text=text or None,
        image=image,
        filters=parse_filters(conditions or []),
        kind=None if kind is None else kind.value,
    )


def render_answer(answer: Answer) -> str:
    """An answer with its sources, as text for people."""
    lines = [printable(answer.text) if answer.found else f"not found: {answer.reason}", ""]
    said = "quoted from" if answer.quoted else "sources"
    lines.append(said if answer.found else "looked at")
    return "\n".join([*lines, render_hits(answer.sources)])


def with_adapters(
    retriever: GenerativeMMRetriever, names: Sequence[str], writer: str | None, device: str | None
) -> Searcher:
    """A retriever with the adapters that a command names in front of it."""
    from ..models.loading import load_generator
    from ..querying import adapted

    model = None if writer is None else load_generator(writer, device=device)
    return adapted(retriever, names, model)


def render_hits(hits: Sequence[Hit]) -> str:
    """Hits with their evidence, as text for people."""
    if not hits:
        return "nothing in the index matches"
    lines = [_step(step) for step in hits[0].evidence.steps]
    for hit in hits:
        score, beside = shown_score(hit)
        said = f"  ({beside})" if beside else ""
        lines.append(f"{hit.rank:>3}  {score:.3f}  {printable(hit.item.id)}{said}")
        if hit.item.kind == "text" and hit.item.text:
            lines.append(f"            text        {printable(_cut(hit.item.text))}")
        if hit.evidence.caption and hit.evidence.caption != hit.item.text:
            lines.append(f"            caption     {printable(_cut(hit.evidence.caption))}")
        lines += [
            f"            identifier  {printable(found.text)}  ({_wrote(found)})"
            for found in hit.evidence.identifiers[:2]
        ]
        lines += [f"            clue        {_clue(found)}" for found in hit.evidence.clues[:3]]
        if hit.evidence.filled:
            lines.append("            filled up to k; nothing that was written led here")
    return "\n".join(lines)


def _step(step: QueryStep) -> str:
    """What an adapter did to the query, and what it cost."""
    done = printable(_cut(step.text)) if step.changed else "left as it was"
    why = f" ({printable(_cut(step.note))})" if step.note else ""
    tokens = "" if step.tokens is None else f"{step.tokens} tokens, "
    return f"{step.adapter:<7}  {done}{why}  {tokens}{step.seconds:.2f} s"


def _wrote(found: GeneratedIdentifier) -> str:
    """How likely what the model wrote of an identifier was."""
    part = "" if found.written is None else f"wrote {printable(found.written)!r}, "
    return f"{part}logprob {found.logprob:.2f}"


def _clue(found: FoundClue) -> str:
    """A clue with its places in the caption, in characters."""
    where = ", ".join(f"{start}-{end}" for start, end in found.spans)
    of = "seen in the picture, " if found.seen else "of the query, " if found.given else ""
    at = f", at {where}" if where else ""
    return f"{printable(found.text)}  ({of}logprob {found.logprob:.2f}{at})"


def _cut(text: str, length: int = 120) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def evaluate(
    console: Console,
    index: IndexPath,
    queries: Annotated[
        Path,
        typer.Argument(metavar="QUERIES", help="JSONL of queries or captions, or a BEIR folder."),
    ],
    k: Annotated[str, typer.Option("-k", help="Cut-offs of recall.")] = "1,5,10",
    direction: Annotated[
        Direction, typer.Option(help="For captions: which side asks.")
    ] = Direction.text_to_image,
    limit: Limit = None,
    seed: Annotated[int, typer.Option(help="Of the sample that --limit takes.")] = 0,
    run: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the run in TREC format.")
    ] = None,
    qrels: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the judgements in TREC format.")
    ] = None,
    split: Annotated[str, typer.Option(help="Of a BEIR folder.")] = "test",
    verify: Annotated[Verify, typer.Option(help="How candidates are checked.")] = Verify.likelihood,
    budget: Budget = None,
    model: Model = None,
    device: Device = None,
    vectors: Vectors = True,
    beams: Beams = None,
    adapt: Adapt = None,
    writer: Writer = None,
) -> None:
    """Measure recall, reciprocal rank and time, one query at a time.

    Recalls are percent. candidates@k is the recall of the first stage, unverified@k that of its
    order before verification, both from the same run; subset@k that among the subset that a
    query names.
    """
    from ..corpus.store import IndexReader
    from ..evaluation import evaluate as ask_all
    from ..evaluation import read_queries
    from ..retriever import GenerativeMMRetriever

    cutoffs = parse_cutoffs(k)
    limits = parse_budget(budget)
    names = parse_adapters(adapt, writer)
    asked = read_queries(queries, direction=direction.value, limit=limit, seed=seed, split=split)
    reader = IndexReader.open(index)
    try:
        named = frozenset().union(*(query.relevant | query.subset for query in asked))
        known = frozenset(name for name in named if reader.row(name) is not None)
    finally:
        reader.close()
    with GenerativeMMRetriever.from_index(
        index,
        model=model,
        verify=verify.value,
        num_beams=beams,
        device=device,
        contrastive=None if vectors else False,
        **limits,
    ) as retriever:
        report = ask_all(
            with_adapters(retriever, names, writer, device),
            asked,
            ks=cutoffs,
            verify=verify.value,
            known=known,
            progress=console.progress,
        )
    if run is not None:
        report.write_run(run)
    if qrels is not None:
        report.write_qrels(qrels)
    report.settings = {
        "index": str(index),
        "available": asked.available,
        "seed": seed,
        "direction": direction.value,
        "verification": verify.value,
        "beams": beams,
        "adapters": names,
        "writer": writer,
        **limits,
    }
    console.result(report.to_json(), report.to_text())
