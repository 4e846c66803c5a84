"""Contrastive encoders: tiny random-weight CLIP and SigLIP models, saved and loaded again."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
import torch

from genmm_retriever.errors import MissingExtraError, ModelError, ModelNotFoundError
from genmm_retriever.models.contrastive import ContrastiveEncoder, load_contrastive

TEXTS = ["a red boat", "", "a dog " * 40]


@pytest.fixture(scope="module", params=["clip", "siglip"])
def folder(request, tiny_clip):
    return tiny_clip(request.param)


def test_cosines_are_those_of_the_whole_model(folder, noise):
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    encoder = load_contrastive(str(folder), device="cpu")
    assert isinstance(encoder, ContrastiveEncoder)
    pictures = [noise(seed=n) for n in range(3)]
    images, texts = encoder.embed_pictures(pictures), encoder.embed_texts(TEXTS[:2])
    assert images.dtype == texts.dtype == torch.float32
    torch.testing.assert_close(images.norm(dim=1), torch.ones(3))
    whole = AutoModel.from_pretrained(folder).eval()
    pixels = AutoImageProcessor.from_pretrained(folder)(images=pictures, return_tensors="pt")
    siglip = hasattr(whole, "logit_bias")
    tokens = AutoTokenizer.from_pretrained(folder)(
        TEXTS[:2],
        padding="max_length" if siglip else True,
        max_length=whole.config.text_config.max_position_embeddings,
        truncation=True,
        return_tensors="pt",
    )
    named = {"input_ids": tokens["input_ids"]}
    if not siglip:
        named["attention_mask"] = tokens["attention_mask"]
    with torch.no_grad():
        logits = whole(pixel_values=pixels["pixel_values"], **named).logits_per_image
    bias = -encoder.even * encoder.scale if siglip else 0.0
    torch.testing.assert_close(encoder.scale * images @ texts.T + bias, logits)


def test_long_texts_are_cut_and_many_come_in_parts(folder, monkeypatch):
    encoder = load_contrastive(str(folder), device="cpu")
    whole = encoder.embed_texts(TEXTS)
    monkeypatch.setattr("genmm_retriever.models.contrastive._TEXTS_AT_ONCE", 1)
    torch.testing.assert_close(encoder.embed_texts(TEXTS), whole, atol=1e-5, rtol=1e-5)
    assert load_contrastive(str(folder), device="cpu").fingerprint == encoder.fingerprint


def test_grey_and_transparent_pictures_are_seen(folder, noise):
    encoder = load_contrastive(str(folder), device="cpu")
    pictures = [noise().convert(mode) for mode in ("L", "RGBA", "P", "1")]
    assert encoder.embed_pictures(pictures).isfinite().all()


def test_models_that_are_none(tmp_path, tiny_clip):
    from transformers import LlamaConfig

    LlamaConfig().save_pretrained(tmp_path / "text")
    with pytest.raises(ModelError, match="is a llama model, no contrastive one") as caught:
        load_contrastive(str(tmp_path / "text"), device="cpu")
    assert "open-clip:" in caught.value.hint
    with pytest.raises(ModelError, match="'builtin' is a language model, no contrastive one"):
        load_contrastive("builtin")
    with pytest.raises(ModelNotFoundError, match="name of the contrastive model is empty"):
        load_contrastive(" ")
    with pytest.raises(ModelNotFoundError, match="no model folder"):
        load_contrastive("./nowhere/at/all", device="cpu")
    broken = tiny_clip("clip")
    for file in broken.iterdir():
        if file.name != "model.safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ModelNotFoundError, match="cannot be loaded"):
        load_contrastive(str(tmp_path), device="cpu")


def test_without_open_clip_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(MissingExtraError, match="open-clip-torch") as caught:
        load_contrastive("open-clip:ViT-B-32/laion2b_s34b_b79k", device="cpu")
    assert "genmm-retriever[clip]" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("open-clip:ViT-B-23/laion2b_s34b_b79k", "no architecture 'ViT-B-23'"),
        ("open-clip:ViT-B-32/laoin", "no weights that open-clip knows (there are openai, laion2b"),
        ("open-clip:ViT-B-32", "no weights that open-clip knows"),
        ("open-clip:ViT-B-32/weights.pt", "or the path of a .safetensors file"),
        ("open-clip:ViT-B-32/openai", "cannot be loaded: no network"),
    ],
)
def test_names_of_open_clip(monkeypatch, name, told):
    def unreachable(*given: Any, **named: Any) -> Any:
        raise OSError("no network\nand more")

    stub = types.SimpleNamespace(
        list_models=lambda: ["ViT-B-32"],
        list_pretrained_tags_by_model=lambda name: ["openai", "laion2b_s34b_b79k"],
        create_model_from_pretrained=unreachable,
    )
    monkeypatch.setitem(sys.modules, "open_clip", stub)
    with pytest.raises(ModelNotFoundError) as caught:
        load_contrastive(name, device="cpu")
    assert told in str(caught.value)


def test_open_clip_itself(tmp_path, noise):
    open_clip = pytest.importorskip("open_clip", reason="open-clip (extra clip) is not installed")
    from safetensors.torch import save_file

    made = open_clip.create_model("ViT-B-32")
    save_file(made.state_dict(), tmp_path / "random.safetensors")
    encoder = load_contrastive(f"open-clip:ViT-B-32/{tmp_path}/random.safetensors", device="cpu")
    images, texts = encoder.embed_pictures([noise()]), encoder.embed_texts(["a boat", "x" * 999])
    assert images.shape == (1, 512)
    assert texts.shape == (2, 512)
    assert encoder.scale == pytest.approx(1 / 0.07, rel=1e-3)
    assert encoder.even == 0.25
    transform = open_clip.image_transform(224, is_train=False)
    with torch.no_grad():
        expected = made.eval().encode_image(transform(noise())[None], normalize=True)
    torch.testing.assert_close(images, expected, atol=1e-4, rtol=1e-4)
