"""Models by name, and everything that can be wrong with one."""

from __future__ import annotations

import json
import shutil
import socket

import pytest
import torch
from safetensors.torch import load_file, save_file

from genmm_retriever.errors import InputError, ModelError, ModelNotFoundError
from genmm_retriever.models.base import ImagePart, Prompt, TextPart
from genmm_retriever.models.loading import load_model, pick_device, pick_dtype, scoring_model
from genmm_retriever.models.transformers_mllm import TransformersMLLM

PEFT_NAMES = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def save(mllm, folder):
    """The model and its processor as `save_pretrained` leaves them."""
    mllm.model.save_pretrained(folder)
    mllm.processor.save_pretrained(folder)
    return folder


@pytest.fixture
def llama(build, tmp_path):
    """A folder with a tiny text-only model."""
    return save(build("llama"), tmp_path / "llama")


def load(folder, **more):
    """On the CPU in float32, as the models were made."""
    return load_model(folder, device="cpu", dtype="float32", **more)


def test_a_saved_model_comes_back(mllm, tmp_path, picture):
    folder = save(mllm, tmp_path / "model")
    loaded = load(folder)
    assert loaded.name == str(folder)
    assert loaded.fingerprint == mllm.fingerprint
    assert loaded.supports_images == mllm.supports_images
    parts = (TextPart("Find: a dog"),)
    if mllm.supports_images:
        parts = (ImagePart(picture(40, 30)), *parts)
    ours, theirs = (m.prefill([Prompt(parts)]).logits for m in (mllm, loaded))
    torch.testing.assert_close(ours, theirs)


def test_fingerprint_is_of_the_weights_not_of_their_dtype(build, llama):
    half = load_model(llama, device="cpu", dtype="bfloat16")
    assert half.model.dtype == torch.bfloat16
    assert half.fingerprint == build("llama").fingerprint
    weights = load_file(llama / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"] *= 1.1
    save_file(weights, llama / "model.safetensors", {"format": "pt"})
    assert load(llama).fingerprint != half.fingerprint


@PEFT_NAMES
def test_adapter_is_merged_and_changes_the_fingerprint(build, llama, tmp_path):
    from peft import LoraConfig, get_peft_model

    bare = load(llama)
    lora = get_peft_model(load(llama).model, LoraConfig(r=2, target_modules=["q_proj", "up_proj"]))
    with torch.no_grad():
        for name, weight in lora.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.3)
    lora.base_model.model.config.name_or_path = str(llama)
    lora.save_pretrained(tmp_path / "adapter")
    prompt = [Prompt((TextPart("Find: a dog"),))]
    wanted = TransformersMLLM(lora.merge_and_unload(), bare.processor).prefill(prompt).logits
    adapted = load(llama, adapter=tmp_path / "adapter")
    torch.testing.assert_close(adapted.prefill(prompt).logits, wanted)
    assert adapted.fingerprint.startswith(bare.fingerprint + "+")
    settings = tmp_path / "adapter" / "adapter_config.json"
    named = {**json.loads(settings.read_text()), "base_model_name_or_path": str(llama)}
    settings.write_text(json.dumps(named))
    by_itself = load(tmp_path / "adapter")
    assert by_itself.fingerprint == adapted.fingerprint
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match=r"no adapter_model.safetensors"):
        load(llama, adapter=tmp_path / "adapter")


@PEFT_NAMES
def test_adapter_of_another_model_is_refused(build, llama, tmp_path):
    from peft import LoraConfig, get_peft_model

    save(build("mamba"), tmp_path / "mamba")
    lora = get_peft_model(load(tmp_path / "mamba").model, LoraConfig(target_modules=["x_proj"]))
    lora.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ModelError, match="cannot be merged into LlamaForCausalLM"):
        load(llama, adapter=tmp_path / "adapter")


def test_unknown_names_fail_at_once(monkeypatch, tmp_path):
    def unresolved(*args):
        raise socket.gaierror("Name or service not known")

    for proxy in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", unresolved)
    with pytest.raises(ModelNotFoundError, match=r"'nobody/nothing' was not found.*builtin"):
        load("nobody/nothing")
    with pytest.raises(ModelNotFoundError, match=r"did you mean .builtin"):
        load("buildin")
    with pytest.raises(ModelNotFoundError, match="no model folder"):
        load(tmp_path / "absent")
    with pytest.raises(ModelNotFoundError, match=r"no config\.json"):
        load(tmp_path)
    (tmp_path / "a.bin").write_bytes(b"x")
    with pytest.raises(ModelNotFoundError, match="is a file"):
        load(tmp_path / "a.bin")


def test_code_of_a_repository_is_never_run(llama):
    config = json.loads((llama / "config.json").read_text())
    config["model_type"] = "own-code"
    config["auto_map"] = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    (llama / "config.json").write_text(json.dumps(config))
    (llama / "own.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ModelError, match="code of its own"):
        load(llama)


def test_unknown_architecture(llama):
    (llama / "config.json").write_text('{"model_type": "from-the-future"}')
    with pytest.raises(ModelError, match="does not know the architecture"):
        load(llama)


def test_model_that_writes_no_text(llama):
    (llama / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(ModelError, match="writes no text"):
        load(llama)


def test_pickled_weights_are_refused(llama):
    weights = load_file(llama / "model.safetensors")
    (llama / "model.safetensors").unlink()
    torch.save(weights, llama / "pytorch_model.bin")
    with pytest.raises(ModelNotFoundError, match="safetensors"):
        load(llama)


def test_incomplete_weights_are_refused(llama):
    weights = load_file(llama / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, llama / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"lack 1 tensors.*up_proj"):
        load(llama)


def test_truncated_weights_are_refused(llama):
    path = llama / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(llama)


def test_missing_tokenizer_is_named(llama):
    for path in llama.glob("*token*"):
        path.unlink()
    with pytest.raises(ModelError, match="llama"):
        load(llama)


def test_encoder_decoder_models_are_refused(tmp_path, build):
    from transformers import T5Config, T5ForConditionalGeneration

    model = T5ForConditionalGeneration(
        T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, vocab_size=9)
    )
    with pytest.raises(ModelError, match="encoder-decoder"):
        TransformersMLLM(model, build("llama").processor)


def test_devices_and_dtypes():
    assert pick_device("cpu").type == "cpu"
    for wrong in ("cuda:77", "toaster"):
        with pytest.raises(ModelError, match="cannot be used"):
            pick_device(wrong)
    cpu = torch.device("cpu")
    assert pick_dtype(cpu) in (torch.float32, torch.bfloat16)
    assert pick_dtype(cpu, "bfloat16") == pick_dtype(cpu, torch.bfloat16) == torch.bfloat16
    with pytest.raises(ModelError, match="float7"):
        pick_dtype(cpu, "float7")


def test_a_model_that_is_loaded_stays_where_it_lies(build):
    mllm = build("llama")
    assert scoring_model(mllm, "cpu") is mllm
    assert scoring_model(mllm) is mllm
    with pytest.raises(InputError, match=r"lies on cpu, and device is 'meta' .*leave device out"):
        scoring_model(mllm, "meta")


def test_folder_can_be_moved(llama, tmp_path, build):
    shutil.move(llama, tmp_path / "elsewhere with spaces")
    assert load(tmp_path / "elsewhere with spaces").fingerprint == build("llama").fingerprint


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_called_so(name):
    with pytest.raises(ModelNotFoundError, match="name of the model is empty"):
        load_model(name)
