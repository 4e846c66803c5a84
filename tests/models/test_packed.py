"""Packed layers compute what the model's own do, and step back where they cannot."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from genmm_retriever.models import kernels, tree_rows
from genmm_retriever.models.base import ImagePart, Prompt, TextPart
from genmm_retriever.models.caches import set_layer
from genmm_retriever.models.packed import PackedBody, PackedHead, body, linear, steps
from genmm_retriever.models.packed.body import VARIABLE, is_supported
from genmm_retriever.models.transformers_mllm import TransformersMLLM
from genmm_retriever.models.tree_rows import TreeCache

PACKED = ["llama", "mistral-sliding", "llava", "qwen3-vl", "idefics3", "smolvlm", "internvl"]
NOT_PACKED = ["gemma2-softcap", "mamba", "lfm2-hybrid"]

needs_bf16 = pytest.mark.skipif(
    not is_supported(), reason="bfloat16 weights cannot be packed on this processor"
)
Build = Callable[[str], TransformersMLLM]


def half(build: Build, kind: str) -> TransformersMLLM:
    """A model of its own in bfloat16."""
    own = build(kind)
    model = copy.deepcopy(own.model).bfloat16()
    return TransformersMLLM(model, own.processor, name=own.name)


def is_packed(mllm: TransformersMLLM) -> bool:
    """Whether a pass would use packed layers now."""
    with torch.no_grad():
        return mllm.engine.forward.packed.current() is not mllm.model.base_model


def asked(mllm: TransformersMLLM, picture: Callable[..., Image.Image]) -> list[Prompt]:
    """Prompts of different lengths, with a picture where the model takes one."""
    texts = [Prompt((TextPart("a dog on the beach"),)), Prompt((TextPart("cat"),))]
    if not mllm.supports_images:
        return texts
    return [*texts, Prompt((ImagePart(image=picture(40, 30)), TextPart("what is this?")))]


def scored(mllm: TransformersMLLM, prompts: list[Prompt]) -> Tensor:
    """Log-probabilities of some tails in one row: prefilled, extended twice, scored."""
    first, second = mllm.encode("red boat"), mllm.encode("blue")
    state = mllm.prefill(prompts)
    rows = torch.arange(len(prompts)).repeat_interleave(2)
    after, sums = mllm.extend(state, rows, [first, second] * len(prompts), [False] * len(rows))
    tails = mllm.score_from(after, torch.arange(len(rows)), [second] * len(rows))
    whole = mllm.score(prompts, [first] * len(prompts))
    return torch.cat([sums, *tails, *whole])


@needs_bf16
@pytest.mark.parametrize("kind", PACKED)
def test_packed_layers_are_no_further_from_float32_than_the_models_own(
    build: Build,
    kind: str,
    picture: Callable[..., Image.Image],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exact = build(kind)
    prompts = asked(exact, picture)
    packed = half(build, kind)
    assert is_packed(packed)
    monkeypatch.setenv(VARIABLE, "0")
    plain = half(build, kind)
    assert not is_packed(plain)
    right = scored(exact, prompts)
    error, own_error = ((scored(one, prompts) - right).abs().mean() for one in (packed, plain))
    spread = (right - right.mean()).abs().mean()
    assert error <= 1.5 * own_error + 0.01 * spread
    assert own_error < 0.5 * spread


@needs_bf16
@pytest.mark.parametrize("stretch", [16, 3072])
@pytest.mark.parametrize("threads", [1, 64])
@pytest.mark.parametrize("kind", ["llama", "qwen3-vl"])
def test_branches_of_a_tree_come_out_as_in_float32(
    build: Build, kind: str, threads: int, stretch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "_STRETCH", stretch)
    monkeypatch.setattr(linear, "_BLOCK", min(64, stretch))
    # With one thread few of all tokens are seen and looked up; with many torch does all of it.
    exact = build(kind)
    prompts = [Prompt((TextPart("a dog on the beach"),))]
    draw = torch.Generator().manual_seed(0)
    tails = torch.randint(5, 60, (40, 6), generator=draw).tolist()
    rows = torch.zeros(len(tails), dtype=torch.int64)

    def found(mllm: TransformersMLLM) -> Tensor:
        state = mllm.prefill(prompts)
        after, sums = mllm.extend(state, rows, tails, [False] * len(tails))
        more = mllm.score_from(after, torch.arange(len(tails)), tails)
        return torch.cat([sums, *more])

    right = found(exact)
    looked_up: list[int] = []
    attend = kernels.attend

    def counted(*args: Any) -> Tensor:
        looked_up.append(1)
        return attend(*args)

    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(kernels, "attend", counted)
    monkeypatch.setattr(kernels, "pays", lambda _elements: threads == 1)
    packed = half(build, kind)
    error = (found(packed) - right).abs().mean()
    assert is_packed(packed)
    with torch.no_grad():
        assert (len(packed.engine.forward.vocabulary(0)) > 1) == (stretch == 16)
    assert bool(looked_up) == (threads == 1)
    packed.engine.forward.packed.enabled = False
    own_error = (found(packed) - right).abs().mean()
    assert error <= 1.5 * own_error + 0.01 * (right - right.mean()).abs().mean()


@needs_bf16
@pytest.mark.parametrize("kind", ["llama", "qwen3-vl"])
def test_a_cache_that_nobody_goes_on_from_is_not_grown(
    build: Build, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mllm = half(build, kind)
    layers = mllm.model.config.get_text_config().num_hidden_layers
    tails = [mllm.encode("red boat"), mllm.encode("blue dog")]
    rows = torch.zeros(2, dtype=torch.int64)
    grown: list[int] = []

    def counted(cache: Any, index: int, keys: Tensor, values: Tensor) -> None:
        grown.append(keys.shape[2])
        set_layer(cache, index, keys, values)

    assert is_packed(mllm)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(steps, "set_layer", counted)
    state = mllm.prefill([Prompt((TextPart("cat"),))])
    prompt = grown[0]
    assert grown == [prompt] * layers
    ending = mllm.score_from(state, rows, tails)
    assert grown == [prompt] * layers
    after, sums = mllm.extend(state, rows, tails, [False, False])
    fed = sum(map(len, tails))
    assert grown == [prompt] * layers + [prompt + fed] * layers
    again = mllm.score_from(state, rows, tails)
    assert [one.tolist() for one in again] == [one.tolist() for one in ending]
    torch.testing.assert_close(sums, torch.stack([one.sum() for one in ending]), rtol=0, atol=0.1)
    # torch reads what has grown too.
    further = mllm.score_from(after, torch.arange(2), tails)
    monkeypatch.setattr(kernels, "pays", lambda _elements: False)
    for one, other in zip(further, mllm.score_from(after, torch.arange(2), tails), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0.1)


@needs_bf16
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("tokens", [1, 63, 3072, 3073, 4608, 4609, 10_000])
def test_a_head_in_stretches_is_the_whole_head(tokens: int, bias: bool) -> None:
    head = nn.Linear(24, tokens, bias=bias).bfloat16()
    packed = PackedHead(head)
    bounds = [(one.first, one.end) for one in packed.stretches]
    assert bounds[0][0] == 0
    assert bounds[-1][1] == tokens
    assert all(one[1] == other[0] for one, other in pairwise(bounds))
    states = torch.randn((3, 5, 24), generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.no_grad():
        right, found = head(states).float(), packed(states).float()
    torch.testing.assert_close(found, right, rtol=2**-6, atol=2e-2)


@needs_bf16
def test_a_state_of_another_model_is_refused(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    mllm, other = half(build, "llama"), half(build, "llama")
    assert is_packed(other)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    tails, rows = [mllm.encode("red"), mllm.encode("blue")], torch.zeros(2, dtype=torch.int64)
    state = mllm.prefill([Prompt((TextPart("cat"),))])
    layers: list[Any] = state.cache_as(TreeCache).past.layers
    for change in (lambda one: one[..., :4], lambda one: one[:, :1], lambda one: one.float()):
        kept = [(layer.keys, layer.values) for layer in layers]
        for layer in layers:
            layer.keys, layer.values = change(layer.keys), change(layer.values)
        with pytest.raises(RuntimeError):
            other.score_from(state, rows, tails)
        for layer, (keys, values) in zip(layers, kept, strict=True):
            layer.keys, layer.values = keys, values
    assert len(other.score_from(state, rows, tails)) == 2


@needs_bf16
def test_a_cache_that_was_compacted_is_read_rightly(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact, packed = build("llama"), half(build, "llama")
    assert is_packed(packed)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(tree_rows, "_UNSEEN", 8)
    strided: list[bool] = []
    of_layer = steps.of_layer

    def looked_at(cache: Any, index: int) -> tuple[Tensor, Tensor]:
        strided.append(not cache.layers[index].keys.is_contiguous())
        return of_layer(cache, index)

    monkeypatch.setattr(steps, "of_layer", looked_at)
    tails = torch.randint(5, 60, (40, 6), generator=torch.Generator().manual_seed(0)).tolist()

    def found(mllm: TransformersMLLM) -> Tensor:
        state = mllm.prefill([Prompt((TextPart("cat"),))])
        many = torch.zeros(len(tails), dtype=torch.int64)
        state, first = mllm.extend(state, many, tails, [False] * len(tails))
        # Two of them go on: the others' tokens are seen by no row.
        state, second = mllm.extend(state, torch.tensor([3, 9]), tails[:2], [False, False])
        longer = [one + other for one, other in pairwise(tails)]
        third = mllm.score_from(state, torch.arange(len(longer)) % 2, longer)
        return torch.cat([first, second, *third])

    right = found(exact)
    error = (found(packed) - right).abs().mean()
    assert any(strided)
    packed.engine.forward.packed.enabled = False
    own_error = (found(packed) - right).abs().mean()
    assert error <= 1.5 * own_error + 0.01 * (right - right.mean()).abs().mean()


@needs_bf16
def test_hooks_on_the_head_are_run_when_tails_are_scored(build: Build) -> None:
    mllm = half(build, "llama")
    assert is_packed(mllm)
    state, rows = mllm.prefill([Prompt((TextPart("cat"),))]), torch.zeros(1, dtype=torch.int64)
    head = mllm.model.lm_head
    for register in (
        head.register_forward_hook,
        head.register_forward_pre_hook,
        nn.modules.module.register_module_forward_hook,
    ):
        seen: list[int] = []
        hook = register(lambda one, *_, seen=seen: seen.append(id(one)))
        mllm.score_from(state, rows, [mllm.encode("red boat")])
        hook.remove()
        assert seen


@needs_bf16
@pytest.mark.parametrize("kind", NOT_PACKED)
def test_other_layers_are_left_as_they_are(build: Build, kind: str) -> None:
    assert not is_packed(half(build, kind))


def test_float32_is_left_as_it_is(build: Build) -> None:
    mllm = build("llama")
    assert not is_packed(mllm)
    assert mllm.engine.forward.packed.latest()[1] is mllm.model.get_output_embeddings()


@needs_bf16
def test_biases_are_kept(build: Build) -> None:
    # InternVL's Qwen2 has biases at queries, keys and values, which start at zero.
    exact = copy.deepcopy(build("internvl").model).bfloat16()
    drawn = torch.Generator().manual_seed(1)
    for name, value in exact.named_parameters():
        if name.endswith(("q_proj.bias", "k_proj.bias", "v_proj.bias")):
            nn.init.normal_(value, generator=drawn)
    tokens = torch.tensor([[5, 9, 40, 7]])
    with torch.no_grad():
        packed = PackedBody(exact, exact.get_output_embeddings()).current()
        assert packed is not exact.base_model
        own, other = (one(input_ids=tokens)[0].float() for one in (exact.base_model, packed))
    assert (other - own).norm() < 0.03 * own.norm()


@needs_bf16
def test_packed_only_for_inference(build: Build) -> None:
    mllm = half(build, "llama")
    packed = mllm.engine.forward.packed
    assert packed.current() is mllm.model.base_model  # gradients are on
    assert is_packed(mllm)
    mllm.model.train()
    assert not is_packed(mllm)
    mllm.model.eval()
    assert is_packed(mllm)


def _half_of_a_weight(model: Any) -> None:
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(0.5)


def _another_tensor(model: Any) -> None:
    weight = model.model.layers[1].self_attn.o_proj.weight
    weight.data = weight.data * -1


def _another_parameter(model: Any) -> None:
    linear = model.model.layers[0].self_attn.q_proj
    linear.weight = nn.Parameter(linear.weight.detach() * 2)


def _another_norm(model: Any) -> None:
    with torch.no_grad():
        model.model.layers[0].input_layernorm.weight.mul_(3)


def _another_head(model: Any) -> None:
    with torch.no_grad():
        model.lm_head.weight.mul_(-1)


def _behind_the_back(model: Any) -> None:
    model.model.layers[1].mlp.up_proj.weight.data.mul_(3)


def _another_last_norm(model: Any) -> None:
    model.model.norm = copy.deepcopy(model.model.norm)
    model.model.norm.weight.data.mul_(-1)


def _other_embeddings(model: Any) -> None:
    embedding = copy.deepcopy(model.get_input_embeddings())
    embedding.weight.data = embedding.weight.data.roll(1, 0)
    model.set_input_embeddings(embedding)


def _adapted(model: Any) -> Any:
    """The model with a LoRA adapter in place, drawn at random."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return peft.get_peft_model(model, config)


def _merged_adapter(model: Any) -> None:
    _adapted(model).merge_and_unload()


@needs_bf16
@pytest.mark.parametrize(
    "change",
    [
        _half_of_a_weight,
        _another_tensor,
        _another_parameter,
        _another_norm,
        _another_head,
        _behind_the_back,
        _another_last_norm,
        _other_embeddings,
        _merged_adapter,
    ],
)
def test_weights_that_change_are_packed_anew(
    build: Build, change: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mllm = half(build, "llama")
    prompts = [Prompt((TextPart("a dog"),))]
    before = scored(mllm, prompts)
    change(mllm.model)
    after = scored(mllm, prompts)
    assert is_packed(mllm)
    monkeypatch.setenv(VARIABLE, "0")
    plain = scored(TransformersMLLM(mllm.model, mllm.processor), prompts)
    # Also what was kept of the prompt is of the new weights.
    kept = len(mllm.encode("red boat"))
    for part in (slice(None), slice(-kept, None)):
        assert (after - plain)[part].abs().mean() < 0.2 * (before - plain)[part].abs().mean()


@needs_bf16
def test_an_adapter_in_place_is_not_passed_over(build: Build) -> None:
    mllm = half(build, "llama")
    prompts = [Prompt((TextPart("a dog"),))]
    before = scored(mllm, prompts)
    adapted = _adapted(mllm.model)
    after = scored(mllm, prompts)
    assert not is_packed(mllm)
    assert not torch.allclose(before, after, atol=0.05)
    adapted.unload()
    torch.testing.assert_close(scored(mllm, prompts), before)
    assert is_packed(mllm)


@needs_bf16
def test_a_hook_on_a_layer_is_run(build: Build) -> None:
    mllm = half(build, "llama")
    assert is_packed(mllm)
    seen: list[object] = []
    layer = mllm.model.model.layers[0]
    hook = layer.register_forward_hook(lambda *given: seen.append(given[0]))
    scored(mllm, [Prompt((TextPart("a dog"),))])
    assert seen
    assert all(one is layer for one in seen)
    hook.remove()
    assert is_packed(mllm)


@needs_bf16
def test_a_hook_on_every_module_is_run(build: Build) -> None:
    mllm = half(build, "llama")
    assert is_packed(mllm)
    seen: list[object] = []
    hook = nn.modules.module.register_module_forward_hook(lambda one, *_: seen.append(one))
    scored(mllm, [Prompt((TextPart("a dog"),))])
    hook.remove()
    assert mllm.model.model.layers[0].mlp.up_proj in seen
    assert is_packed(mllm)


@needs_bf16
@pytest.mark.parametrize("of", ["base_model", "lm_head"])
def test_hooks_on_body_and_head_are_run_beside_packed_layers(build: Build, of: str) -> None:
    mllm = half(build, "llama")
    assert is_packed(mllm)
    passes: list[int] = []
    hook = getattr(mllm.model, of).register_forward_hook(lambda *_: passes.append(1))
    mllm.prefill([Prompt((TextPart("a dog"),))])
    assert passes
    assert is_packed(mllm)
    hook.remove()
    assert is_packed(mllm)


@needs_bf16
def test_layers_that_disagree_with_the_model_are_not_used(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    mllm = half(build, "llama")
    monkeypatch.setattr(
        "genmm_retriever.models.packed.layer.gated", lambda both, _: both.chunk(2, dim=1)[0]
    )
    assert not is_packed(mllm)


@needs_bf16
def test_other_activations_are_left_as_they_are(build: Build) -> None:
    from transformers.activations import ACT2FN

    mllm = half(build, "llama")
    for layer in mllm.model.model.layers:
        layer.mlp.act_fn = ACT2FN["gelu"]
    assert not is_packed(mllm)


@needs_bf16
def test_a_bias_at_queries_alone_is_left_as_it_is(build: Build) -> None:
    mllm = half(build, "llama")
    for layer in mllm.model.model.layers:
        queries = layer.self_attn.q_proj
        queries.bias = nn.Parameter(torch.ones(queries.out_features, dtype=torch.bfloat16))
    assert not is_packed(mllm)


@needs_bf16
def test_layers_that_go_away_are_not_missed(build: Build) -> None:
    mllm = half(build, "llama")
    assert is_packed(mllm)
    kept = mllm.model.model.layers
    mllm.model.model.layers = nn.Sequential(*kept)
    assert not is_packed(mllm)
    mllm.model.model.layers = kept
    assert is_packed(mllm)


@needs_bf16
def test_layers_of_anybody_elses_code_are_left_as_they_are(build: Build) -> None:
    mllm = half(build, "llama")
    for layer in mllm.model.model.layers:
        layer.__class__ = type("LlamaDecoderLayer", (type(layer),), {"__module__": "elsewhere"})
    assert not is_packed(mllm)


@needs_bf16
def test_large_models_are_not_held_twice(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "MOST_BYTES", 1000)
    assert not is_packed(half(build, "llama"))


@needs_bf16
def test_many_threads_pack_once_and_agree(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    mllm = half(build, "llama")
    made: list[object] = []
    make = PackedBody._made

    def counted(self: PackedBody) -> Any:
        made.append(self)
        return make(self)

    monkeypatch.setattr(PackedBody, "_made", counted)
    prompts = [Prompt((TextPart("a dog on the beach"),))]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: scored(mllm, prompts), range(16)))
    assert len(made) == 1
    for one in found[1:]:
        assert torch.equal(one, found[0])


@needs_bf16
def test_copies_have_weights_of_their_own(build: Build) -> None:
    mllm = half(build, "llama")
    prompts = [Prompt((TextPart("a dog"),))]
    before = scored(mllm, prompts)
    other = copy.deepcopy(mllm)
    _half_of_a_weight(other.model)
    assert not torch.allclose(scored(other, prompts), before, atol=0.02)
    assert torch.equal(scored(mllm, prompts), before)


@needs_bf16
def test_the_builtin_model_is_packed(builtin: Any) -> None:
    if builtin.model.get_input_embeddings().weight.dtype != torch.bfloat16:
        pytest.skip("the builtin model runs in float32 here")
    assert is_packed(builtin)
