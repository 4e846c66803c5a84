"""Every script runs; its figures on a busy machine mean nothing and are not looked at."""

from __future__ import annotations

import json

import pytest
import torch
from benchmarks.claims import BENCHMARKS
from benchmarks.harness import Options, result_of
from benchmarks.watch import watching

SEARCH = ("step_share", "generate_speed", "corpus_growth", "forward_passes", "brute_force")
TRIE = ("trie_memory", "trie_build", "trie_lookup")
CLUES = ("clue_next", "clue_build", "clue_memory", "clue_scaling")
GPU = ("gpu_step", "gpu_decode")
PEERS = ("dual_encoder", "vision_stage")
ASKING = (
    "query_rewriting",
    "query_expansion",
    "reasoning_rounds",
    "reference_resolution",
    "passages_in_words",
    "composed_queries",
    "composed_garments",
    "reverse_consistency",
    "abstention",
    "abstention_classes",
    "abstention_passages",
    "planted_captions",
)


def quick(name, cache, **options):
    result = result_of(BENCHMARKS[name], Options(quick=True, cache=cache, **options), name)
    return json.loads(json.dumps(result))


def test_all_are_known():
    kinds = (SEARCH, TRIE, CLUES, GPU, PEERS, ASKING)
    assert set(BENCHMARKS) == {
        *sum(kinds, ()),
        "generate_speed_pictures",
        "packed_layers",
        "knowledge",
        "service_load",
    }


@pytest.mark.parametrize("name", SEARCH)
def test_searches(name, tiny_model, tmp_path):
    result = quick(name, tmp_path)
    assert result["value"] > 0
    assert not result.get("skipped")


def test_both_ways_of_decoding_find_ten(tiny_model, tmp_path):
    details = quick("generate_speed", tmp_path)["details"]
    assert set(details["times_as_fast_by_kind"]) == {"text", "picture"}
    assert all(row["fed"][name]["passes"] > 1 for row in details["each"] for name in row["fed"])
    assert all(0 <= row["same_of_ten"] <= 10 for row in details["each"])


def test_a_picture_is_run_once_by_us_and_once_a_beam_by_generate(tmp_path):
    result = quick("generate_speed_pictures", tmp_path)
    assert result["value"] > 0
    (row,) = result["details"]["each"]
    theirs = row["fed"]["transformers generate, dict trie"]["tokens"]
    assert theirs > 20 * 256
    assert 256 < row["fed"]["ours"]["tokens"] < theirs


def test_packed_layers_are_timed_beside_the_models_own(make_builtin, tmp_path, monkeypatch):
    from benchmarks.corpora import models

    from genmm_retriever.models.builtin import BuiltinMLLM
    from genmm_retriever.models.packed.body import is_supported

    model, processor = make_builtin()
    tiny = BuiltinMLLM(model, processor, name="tiny-builtin")
    monkeypatch.setattr(models, "load", lambda name: tiny)
    assert "not packed" in quick("packed_layers", tmp_path)["skipped"]
    if not is_supported():
        pytest.skip("bfloat16 weights cannot be packed on this processor")
    model.model.language_model.bfloat16()
    model.lm_head.weight = model.model.get_input_embeddings().weight
    half = BuiltinMLLM(model, processor, name="tiny-builtin")
    monkeypatch.setattr(models, "load", lambda name: half)
    result = quick("packed_layers", tmp_path)
    assert result["value"] > 0
    assert set(result["details"]["times_as_fast_by_tokens_of_a_pass"]) == {"1", "20"}
    assert half.engine.forward.packed.enabled


def test_passes_are_those_of_the_model(tiny_model, tmp_path):
    result = quick("forward_passes", tmp_path)
    # One pass for the prompt and one for each further token, the last of which is not fed.
    assert result["peers"]["transformers generate"] == 16
    assert 1 < result["value"] <= 16


@pytest.mark.parametrize("name", TRIE)
def test_tries(name, tiny_model, tmp_path):
    result = quick(name, tmp_path)
    assert result["value"] > 0
    assert result["peers"]["dict of dicts"] > 0
    assert all(result["also"].values())


@pytest.mark.slow
@pytest.mark.parametrize("name", CLUES)
def test_clues(name, tmp_path):
    pytest.importorskip("numba")
    result = quick(name, tmp_path)
    if result.get("skipped"):
        pytest.skip(result["skipped"])
    assert result["value"] > 0
    assert all(met for text, met in result["also"].items() if text.startswith("the counts"))


@pytest.mark.parametrize("name", GPU)
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_rows_say_that_there_is_none(name, tmp_path):
    result = quick(name, tmp_path)
    assert result["ok"] is None
    assert "CUDA" in result["skipped"]


def test_the_knowledge_task_is_skipped_without_its_folder(tmp_path):
    result = quick("knowledge", tmp_path, knowledge=tmp_path / "absent")
    assert result["ok"] is None
    assert "--knowledge DIR" in result["skipped"]


def test_peers_of_the_knowledge_task():
    pytest.importorskip("bm25s")
    from benchmarks.claims.knowledge import _bm25, _least_ratio, _looked_up

    passages = [
        {"id": "a", "title": "punch", "names": ["punch", "slug"], "text": "a blow with the fist"},
        {"id": "b", "title": "slug", "names": ["slug"], "text": "a gastropod without a shell"},
        {"id": "c", "title": "tench", "names": ["tench"], "text": "a freshwater fish"},
    ]
    # Titles before further names, likelier labels before others.
    assert _looked_up(passages, ["slug, tench"] * 3 + [""], [1, 0, 2, 1]) == [0, 1, 2, None]
    assert _bm25(passages, ["freshwater fish", "gastropod shell"], [2, 1]) == [0, 0]
    ours, theirs = {1: 50.0, 5: 60.0, 10: 90.0}, {1: 0.0, 5: 20.0, 10: 60.0}
    assert _least_ratio(ours, theirs) == pytest.approx(1.5)


def test_wordnet_is_left_out_with_a_note(tiny_model, tmp_path):
    result = quick("forward_passes", tmp_path, wordnet=tmp_path / "absent.jsonl")
    assert any("WordNet was left out" in note for note in result["notes"])


def test_the_watch_counts_and_leaves_nothing_behind(tiny_builtin):
    from benchmarks.corpora.models import prompts

    with watching(tiny_builtin) as watch:
        state = tiny_builtin.prefill(prompts(2))
        tiny_builtin.score_from(state, torch.tensor([0, 1]), [[5, 6, 7], [8, 9]])
    assert watch.passes == 2
    assert watch.tokens > 3
    assert set(watch.methods) == {"prefill", "score_from"}
    assert 0 < watch.forward["prefill"] <= watch.methods["prefill"]
    assert 0 < watch.forward["score_from"] <= watch.methods["score_from"]
    rest, modules, methods = watch.after_prompt(10.0)
    assert modules <= methods <= 10.0 - watch.methods["prefill"] + 1e-9 or rest < 10.0
    passes = watch.passes
    tiny_builtin.prefill(prompts(1))
    assert watch.passes == passes
    assert "prefill" not in vars(tiny_builtin)


def test_a_random_qwen_is_searched(identifiers):
    from benchmarks.claims.common import make_trie, searcher
    from benchmarks.claims.qwen import random_qwen

    mllm = random_qwen("tiny", "cpu")
    few = identifiers.first(50)
    found = searcher(mllm, make_trie(few), max_leaves_exact=100)(mllm.picture_prompt("a dog"))
    assert len(found) == 10
    assert {h.tokens for h in found} <= {tuple(one) for one in few.lists()}
    prompt = mllm.encode_prompt(mllm.picture_prompt("a dog"))
    assert int((prompt["input_ids"] == mllm.model.config.image_token_id).sum()) == 256


def test_the_gpu_step_runs_on_any_device():
    from benchmarks.claims.gpu import measured_step

    found = measured_step(3_000, 0, "cpu")
    assert found.value > 0
    assert found.peers["STATIC"] > 0
    assert found.details["static_identifiers"] > 2_000
    assert set(found.details["by_depth"]) == set(range(1, 7))


def test_the_gpu_step_chooses_like_a_plain_beam(identifiers):
    from benchmarks.claims.common import make_trie
    from benchmarks.claims.gpu import select_next

    trie = make_trie(identifiers)
    logprobs = torch.randn(1, 3_000, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    parents, tokens, _ = select_next(trie, trie.start(1), logprobs, torch.zeros(1), 6)
    first = {one[0] for one in identifiers.lists()}
    best = sorted(first, key=lambda token: -float(logprobs[0, token]))[:6]
    assert tokens.tolist() == best
    assert parents.tolist() == [0] * 6
