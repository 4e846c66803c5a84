from __future__ import annotations

import json
import logging
import sys
import types
from pathlib import Path

import pytest

from genmm_retriever import Hit, Item
from genmm_retriever.errors import IndexNotFoundError, InputError
from genmm_retriever.schema import Evidence, GeneratedIdentifier
from genmm_retriever.serving import cli

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for p in m['content'] %}{{ p['text'] }}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class Report:
    def __init__(self, **fields):
        self.__dict__.update(fields)


class WordRetriever:
    """Ranks by shared words; answers like the real retriever, without a model.

    The command line is tested against it, and with the real one in test_end_to_end.py.
    """

    calls: list = []  # noqa: RUF012 - cleared by the fixture

    def __init__(self, path, items=()):
        self.path, self.items = Path(path), list(items)
        self.last_timings, self.last_candidates = {}, []
        self.build_report = None

    @classmethod
    def from_images(cls, source, *, path, **options):
        cls.calls.append(("from_images", source, options))
        items = [s if isinstance(s, Item) else Item(id=s.name, text=s.name) for s in source]
        found = cls(path, items)
        found.path.mkdir(parents=True, exist_ok=True)
        (found.path / "items.json").write_text(json.dumps([i.model_dump() for i in items]))
        found.build_report = Report(
            items=len(items),
            added=len(items),
            replaced=0,
            unchanged=0,
            skipped=[("bad\nname", "cut short")],
        )
        return found

    @classmethod
    def from_index(cls, path, **options):
        cls.calls.append(("from_index", path, options))
        file = Path(path) / "items.json"
        if not file.is_file():
            raise IndexNotFoundError(f"there is no index at {path}", "build one with genmm index")
        return cls(path, [Item(**item) for item in json.loads(file.read_text())])

    def retrieve(self, query, *, k=None, verify=None):
        self.calls.append(("retrieve", query, k))
        words = set((query.text or "").split())
        ranked = sorted(self.items, key=lambda i: -len(words & set((i.text or i.id).split())))
        self.last_timings = {"decode": 0.1, "verify": 0.2}
        self.last_candidates = [[item.id for item in ranked]]
        written = GeneratedIdentifier(text="a, b", logprob=-1.5, score=-0.5)
        evidence = Evidence(identifiers=(written,), caption="what is seen", verification=0.5)
        return [
            Hit(item=item, score=1 / rank, rank=rank, evidence=evidence)
            for rank, item in enumerate(ranked[: k or 10], start=1)
        ]

    def add(self, source, **options):
        self.calls.append(("add", source, options))
        return Report(items=3, added=len(source), replaced=0, unchanged=0, skipped=[])

    def delete(self, ids):
        known = {item.id for item in self.items}
        for name in ids:
            if name not in known:
                raise InputError(f"there is no item {name!r}", "see the ids with genmm info")
        return len(ids)

    def close(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


@pytest.fixture
def words(monkeypatch):
    """The command line with the word retriever in place of the real one."""
    module = types.ModuleType("genmm_retriever.retriever")
    module.GenerativeMMRetriever = WordRetriever
    monkeypatch.setitem(sys.modules, "genmm_retriever.retriever", module)
    monkeypatch.setattr(WordRetriever, "calls", [])
    return WordRetriever


@pytest.fixture
def genmm(capsys, monkeypatch):
    """Run the command line in this process: (exit code, stdout, stderr)."""
    # --quiet sets it; the fixture, which has to have set it once, takes it back.
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "0")
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS")

    def run(*arguments):
        code = cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def index(tmp_path, words):
    items = [
        Item(id="1", text="a red bus", metadata={"colour": "red"}),
        Item(id="2", text="a blue car"),
        Item(id="odd\nname\udcff", text="a green car"),
    ]
    words.from_images(items, path=tmp_path / "it.genmm")
    return tmp_path / "it.genmm"


@pytest.fixture(scope="module")
def model(tmp_path_factory, byte_level):
    """Folder of a tiny causal model with random weights and a byte-level tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    backend = byte_level(["<|pad|>", "<|im_start|>", "<|im_end|>"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        chat_template=CHAT,
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    folder = tmp_path_factory.mktemp("model")
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def quiet_logging():
    yield
    logging.basicConfig(force=True, level=logging.WARNING)
