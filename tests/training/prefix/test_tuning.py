"""Prefix tuning of vision transformers."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genmm_retriever.errors import InputError, MissingExtraError, ModelError, ModelNotFoundError
from genmm_retriever.training.prefix import (
    CellFlow,
    PrefixTuning,
    adapt_tower,
    dual_flow_attention,
    load_tuned,
    open_clip_tower,
    prompt_flow,
    region_features,
    save_tuned,
)

Build = Callable[[str], nn.Module]


def _pixels(n: int = 2) -> Tensor:
    return torch.randn(n, 3, 28, 28, generator=torch.Generator().manual_seed(1))


def _regions(n: int = 2, width: int = 16) -> Tensor:
    return torch.randn(n, 10, width, generator=torch.Generator().manual_seed(2))


def _opened(tuning: PrefixTuning) -> PrefixTuning:
    with torch.no_grad():
        tuning.gates.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(4))
    return tuning


def _loop(q: Tensor, kp: Tensor, vp: Tensor, kx: Tensor, vx: Tensor, g: Tensor) -> Tensor:
    """The published formula, one weight at a time."""
    out = torch.zeros_like(q)
    for n in range(q.shape[0]):
        for h in range(q.shape[1]):
            for t in range(q.shape[2]):
                for keys, values, factor in ((kp, vp, float(g[h])), (kx, vx, 1.0)):
                    scores = [
                        math.exp(float(q[n, h, t] @ key) / math.sqrt(q.shape[3]))
                        for key in keys[n, h]
                    ]
                    for score, value in zip(scores, values[n, h], strict=True):
                        out[n, h, t] += factor * score / sum(scores) * value
    return out


def test_dual_flow_is_the_formula() -> None:
    make = torch.Generator().manual_seed(0)
    q, kx, vx = (torch.randn(2, 3, 4, 5, generator=make) for _ in range(3))
    kp, vp = (torch.randn(2, 3, 6, 5, generator=make) for _ in range(2))
    g = torch.tensor([0.0, 0.7, -1.3])
    got = dual_flow_attention(q, kx, vx, kp, vp, g)
    torch.testing.assert_close(got, _loop(q, kp, vp, kx, vx, g), rtol=1e-5, atol=1e-5)
    # One query, one prompt, one token: g * v_p + v_x, whatever the keys.
    one = dual_flow_attention(*(torch.full((1, 1, 1, 1), float(i)) for i in (1, 2, 3, 4, 5)),
                              torch.tensor([0.25]))  # fmt: skip
    assert one.item() == 3 + 0.25 * 5


def test_hooked_attention_is_the_formula(tower: nn.Module) -> None:
    tuning = _opened(PrefixTuning(tower, 8, blocks=1))
    face = adapt_tower(tower)
    block = face.blocks[-1]
    kept: dict[str, Any] = {}

    def keep(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        kept["in"] = args[0] if args else kwargs["hidden_states"]
        kept["out"] = output[0]

    regions = _regions()
    with torch.no_grad():
        prompts = tuning.prompts[0] + regions
        with tuning._flowing(prompts.unsqueeze(0)):
            handle = block.attention.register_forward_hook(keep, with_kwargs=True)
            face.see(_pixels())
            handle.remove()
        hidden, got = kept["in"], kept["out"]
        if not block.batch_first:
            hidden, got = hidden.transpose(0, 1), got.transpose(0, 1)
        normed = block.norm(prompts)

        def heads(x: Tensor) -> Tensor:
            return x.view(2, -1, 2, 8).transpose(1, 2)

        q, kx, vx = (heads(f(hidden)) for f in (block.query, block.key, block.value))
        kp, vp = (heads(f(normed)) for f in (block.key, block.value))
        flow = _loop(q, kp, vp, kx, vx, tuning.gates[0]).transpose(1, 2).flatten(2)
        out: Any = block.attention.out_proj
        torch.testing.assert_close(got, out(flow), rtol=1e-4, atol=1e-4)


def test_closed_gates_change_no_bit(tower: nn.Module) -> None:
    tower.requires_grad_(False)  # torch attends by another kernel where weights are not frozen
    with torch.no_grad():
        features, summary = adapt_tower(tower).see(_pixels())
        tuning = PrefixTuning(tower, 8)
        assert torch.equal(tuning(_pixels(), _regions()).features, features)
        assert torch.equal(tuning.encode(_pixels()), summary)
        seen = _opened(tuning)(_pixels(), _regions())
        assert not torch.allclose(seen.features, features, atol=1e-3)
        # Outside of a call nothing of the tower is changed.
        assert torch.equal(adapt_tower(tower).see(_pixels())[0], features)


def test_closed_gates_change_no_bit_under_autocast(build_tower: Build) -> None:
    tower = build_tower("clip-sdpa")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        features = adapt_tower(tower).see(_pixels())[0]
        assert torch.equal(PrefixTuning(tower, 8)(_pixels(), _regions()).features, features)


def test_summary_is_cls_or_pooled(build_tower: Build) -> None:
    with torch.no_grad():
        for kind in ("clip-sdpa", "open-clip", "open-clip-old"):
            features, summary = adapt_tower(build_tower(kind)).see(_pixels())
            assert torch.equal(summary, features[:, 0])
            assert features.shape == (2, 5, 16)
        tower: Any = build_tower("siglip")
        pooled = tower(pixel_values=_pixels()).pooler_output
        assert torch.equal(adapt_tower(tower).see(_pixels())[1], pooled)
        features, summary = adapt_tower(build_tower("siglip-headless")).see(_pixels())
        assert torch.equal(summary, features.mean(dim=1))


def test_open_clip_cls_is_what_the_tower_projects(build_tower: Build) -> None:
    tower: Any = build_tower("open-clip")
    with torch.no_grad():
        summary = adapt_tower(tower).see(_pixels())[1]
        assert torch.equal(tower.ln_post(summary) @ tower.proj, tower(_pixels()))


def test_tokens_are_cls_and_the_first_two_prompts(build_tower: Build) -> None:
    tuning = PrefixTuning(build_tower("clip-sdpa"), 8, blocks=2)
    regions = _regions()
    with torch.no_grad():
        seen = tuning(_pixels(), regions)
        rows = [seen.features[:, 0], *(tuning.prompts[-1] + regions)[:, :2].unbind(1)]
        for place, row in enumerate(rows):
            expected = tuning.projector.maps[place](tuning.projector.norms[place](row))
            assert torch.equal(seen.tokens[:, place], expected)
    assert seen.tokens.shape == (2, 3, 8)


def test_prompts_stand_in_the_last_blocks_only(build_tower: Build) -> None:
    assert PrefixTuning(build_tower("clip-sdpa"), 8, blocks=20).gates.shape == (3, 2)
    tower: Any = build_tower("clip-sdpa")
    tuning = _opened(PrefixTuning(tower, 8, blocks=1))
    with torch.no_grad():
        plain = tower(pixel_values=_pixels(), output_hidden_states=True).hidden_states
        kept: list[Tensor] = []
        for layer in tower.encoder.layers:
            layer.register_forward_hook(lambda _m, _a, out: kept.append(out))
        tuning(_pixels(), _regions())
    assert torch.equal(kept[1], plain[2])
    assert not torch.equal(kept[2], plain[3])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_the_tuned_parts_learn(tower: nn.Module, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    tuning = PrefixTuning(tower, 8).train()
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    trainable = tuning.trainable_parameters()
    wanted = {name for name, value in tuning.named_parameters() if value.requires_grad}
    assert set(trainable) == wanted
    assert not tower.training
    target = torch.randn(2, 3, 8)
    optimiser = torch.optim.AdamW(trainable.values(), lr=1e-2)
    losses = []
    for _ in range(3):
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            seen = tuning(_pixels(), _regions())
            loss = (seen.tokens.float() - target).square().mean()
            loss = loss + (seen.features.float() - 1).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[2] < losses[1] < losses[0]
    assert bool(tuning.gates.any())
    assert all(bool(value.grad.any()) for value in trainable.values())
    after = tower.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_pictures_through_a_processor(build_tower: Build) -> None:
    """From pictures to tokens; regions are seen by the frozen tower itself."""
    from PIL import Image
    from transformers import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
    )
    tuning = PrefixTuning(build_tower("clip-sdpa"), 8)

    def pixels(pictures: Any) -> Tensor:
        return processor(images=list(pictures), return_tensors="pt").pixel_values

    pictures = [Image.radial_gradient("L").convert("RGB"), Image.new("RGB", (40, 30), "red")]
    regions = region_features(pictures, lambda crops: tuning.encode(pixels(crops)))
    with torch.no_grad():
        assert tuning(pixels(pictures), regions).tokens.shape == (2, 3, 8)
        # All of one colour: every region looks like every other one.
        torch.testing.assert_close(regions[1], regions[1, :1].expand(10, -1))
    assert not torch.allclose(regions[0, 0], regions[0, 5], atol=1e-2)


def test_saving_and_loading(tmp_path: Path, build_tower: Build) -> None:
    tower = build_tower("clip-sdpa")
    tuning = _opened(PrefixTuning(tower, 8, blocks=2))
    file = tmp_path / "deep" / "tuned.safetensors"
    save_tuned(tuning, file)
    assert file.stat().st_size < 60_000
    other = PrefixTuning(tower, 8, blocks=2)
    load_tuned(other, file)
    with torch.no_grad():
        first, second = tuning(_pixels(), _regions()), other(_pixels(), _regions())
    assert torch.equal(first.features, second.features)
    assert torch.equal(first.tokens, second.tokens)


def test_loading_refuses_what_does_not_fit(tmp_path: Path, build_tower: Build) -> None:
    tower = build_tower("clip-sdpa")
    file = tmp_path / "tuned.safetensors"
    tuning = PrefixTuning(tower, 8, blocks=2)
    with pytest.raises(ModelNotFoundError, match="no file"):
        load_tuned(tuning, file)
    save_tuned(_opened(PrefixTuning(tower, 8, blocks=1)), file)
    with pytest.raises(ModelError, match=r"prompts in .* has shape \[1, 10, 16\]"):
        load_tuned(tuning, file)
    assert not bool(tuning.gates.any())
    with pytest.raises(ModelError, match="another kind of tuning"):
        load_tuned(CellFlow(16, width=8, heads=2), file)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ModelError, match="cannot be read"):
        load_tuned(tuning, file)


def test_unfit_towers_and_sizes(build_tower: Build) -> None:
    tower = build_tower("clip-sdpa")
    with pytest.raises(ModelError, match="Conv2d has no blocks"):
        adapt_tower(nn.Conv2d(3, 3, 3))
    with pytest.raises(InputError, match="0 blocks"):
        PrefixTuning(tower, 8, blocks=0)
    with pytest.raises(InputError, match="1 regions are too few"):
        PrefixTuning(tower, 8, regions=1)
    with pytest.raises(InputError, match=r"\[2, 9, 16\], expected \[2, 10, 16\]"):
        PrefixTuning(tower, 8)(_pixels(), _regions()[:, :9])


def test_absent_open_clip_names_its_extra() -> None:
    try:
        import open_clip  # noqa: F401
    except ImportError:
        with pytest.raises(MissingExtraError, match=r"open-clip-torch") as caught:
            open_clip_tower("ViT-B-32")
        assert "genmm-retriever[clip]" in caught.value.hint
    else:
        pytest.skip("open-clip is installed")


def test_open_clip_itself() -> None:
    pytest.importorskip("open_clip", reason="open-clip (extra clip) is not installed")
    tower, _ = open_clip_tower("ViT-B-32")
    tuning = PrefixTuning(tower, 8, blocks=2)
    pixels = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        features, summary = tower.see(pixels)
        assert features.shape == (1, 50, 768)
        assert torch.equal(summary, features[:, 0])
        assert torch.equal(tuning(pixels, torch.randn(1, 10, 768)).features, features)


def test_prompt_flow_keeps_the_dtype() -> None:
    q, k, v = (torch.randn(1, 2, 3, 4, dtype=torch.bfloat16) for _ in range(3))
    assert prompt_flow(q, k, v, torch.ones(2)).dtype == torch.bfloat16
