"""Models by name: the builtin one, one of the hub, or one in a folder."""

from __future__ import annotations

import difflib
import importlib.util
import json
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from genmm_retriever.errors import (
    CapabilityError,
    GenmmError,
    InputError,
    MissingExtraError,
    ModelError,
    ModelNotFoundError,
)

if TYPE_CHECKING:
    import torch

    from genmm_retriever.models.base import MLLM, Generator

BUILTIN = "builtin"
REMOTE = "openai:"
"""Names that begin so are models behind an OpenAI-compatible server."""
_DTYPES = ("float32", "bfloat16", "float16")
_OFFLINE_HINT = (
    "check the name and the connection, or give the path of a downloaded model,"
    ' or name "builtin" (--model, model=), which needs no hub'
)


def load_model(
    name: str | Path = BUILTIN,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    adapter: str | Path | None = None,
) -> MLLM:
    """Load a model behind the one protocol.

    Weights are read from safetensors files only, and code that a repository brings along is
    never run.

    Args:
        name: `"builtin"`, a name on the Hugging Face hub (`"Qwen/Qwen3-VL-4B-Instruct"`), the
            folder of a saved model, a PEFT folder (its base model is loaded with it), or what
            `genmm train builtin`, `matching` or `composer` wrote.
        device: Such as `"cpu"` or `"cuda:0"`; by default a GPU if there is one.
        dtype: `"float32"`, `"bfloat16"` or `"float16"`; by default bfloat16 where the device
            computes it natively, else float32.
        adapter: A PEFT folder to merge into the weights.

    Raises:
        CapabilityError: If the name is that of a remote model.
        MissingExtraError: If torch, transformers or peft is not installed.
        ModelNotFoundError: If there is no such model, or its files cannot be reached.
        ModelError: If the model cannot be used: an unknown architecture, code of its own,
            weights that are not safetensors or are incomplete, a device that is not there.
    """
    if str(name).startswith(REMOTE):
        raise CapabilityError(
            f"{str(name)!r} is a remote model, which gives no token log-probabilities",
            "name a local model, by its hub name or path; load_generator loads one that only "
            "writes",
        )
    name = str(name)
    if not name.strip():
        raise ModelNotFoundError("the name of the model is empty", _OFFLINE_HINT)
    _require("torch", "transformers")
    where = pick_device(device)
    how = pick_dtype(where, dtype)
    if name == BUILTIN:
        from genmm_retriever.models.builtin import load_builtin

        model: Any = load_builtin(device=where, dtype=how)
    elif _is_trained_builtin(name):
        from genmm_retriever.models.builtin import load_trained

        model = load_trained(Path(name).expanduser(), device=where, dtype=how)
    else:
        base = _adapter_base(name)
        if base is not None and adapter is None:
            return load_model(base, device=where, dtype=how, adapter=name)
        model = _load_transformers(name, where, how)
    if adapter is not None:
        model.apply_adapter(adapter)
    found: MLLM = model
    return found


def _is_trained_builtin(name: str) -> bool:
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return False
    from genmm_retriever.models.builtin.assembly import is_trained

    return is_trained(folder)


def load_generator(
    name: str | Path,
    device: str | torch.device | None = None,
    *,
    patience: float | None = None,
) -> Generator:
    """Load a model that only has to write: a remote one, or any that `load_model` loads.

    Args:
        name: `"openai:NAME"` for a model behind an OpenAI-compatible server (its address and
            key are those of OPENAI_BASE_URL and OPENAI_API_KEY), else as for `load_model`.
        device: As for `load_model`; a remote model has none.
        patience: Seconds that a remote model may take for a request, and then it is asked no
            second time; None for the limits and tries of `RemoteGenerator`.

    Raises:
        MissingExtraError: If a package is not installed.
        RemoteKeyError: If there is no API key for a remote model.
        InputError: If a remote model has no name, or its server's address is none.
        ModelError: As `load_model`.
    """
    if not str(name).startswith(REMOTE):
        return load_model(name, device=device)
    _require("torch")
    from genmm_retriever.models.remote import RemoteGenerator

    named = str(name).removeprefix(REMOTE)
    if patience is None:
        return RemoteGenerator(named)
    return RemoteGenerator(named, patience=patience, max_retries=0)


def _require(*packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "models")


def scoring_model(model: MLLM | str, device: str | None = None) -> MLLM:
    """A model that gives log-probabilities: the one given, or the one of that name.

    Raises:
        CapabilityError: If it gives none.
        InputError: If one that is loaded lies on another device than the one asked for.
        ModelError: As `load_model`.
    """
    from genmm_retriever.models.base import MLLM

    loaded = load_model(model, device=device) if isinstance(model, str) else model
    if not isinstance(loaded, MLLM):
        raise CapabilityError(
            f"{type(loaded).__name__} gives no token log-probabilities",
            "name a local model, by its hub name or path",
        )
    if device is not None and not isinstance(model, str):
        _check_place(loaded, device)
    return loaded


def _check_place(loaded: MLLM, device: str) -> None:
    lies: torch.device | None = getattr(loaded, "device", None)
    asked = pick_device(device)
    same = lies is None or (lies.type == asked.type and asked.index in (None, lies.index or 0))
    if not same:
        raise InputError(
            f"the model lies on {lies}, and device is {device!r}",
            "leave device out, or give the model's name to have it loaded there",
        )


def pick_device(device: str | torch.device | None = None) -> torch.device:
    """The asked device if it is there; by default CUDA, then MPS, then the CPU.

    Raises:
        ModelError: If the name is none, or there is no such device.
    """
    import torch

    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError, ValueError, NotImplementedError) as error:
        raise ModelError(
            f"the device {str(device)!r} cannot be used", 'name another, for example "cpu"'
        ) from error
    return found


def pick_dtype(device: torch.device, dtype: str | torch.dtype | None = None) -> torch.dtype:
    """The asked dtype; by default bfloat16 where it is computed natively, else float32.

    Raises:
        ModelError: If it is not one of float32, bfloat16, float16.
    """
    import torch

    if dtype is not None:
        text = str(dtype).removeprefix("torch.")
        if text not in _DTYPES:
            raise ModelError(f"the dtype {text!r} cannot be used", f"one of {', '.join(_DTYPES)}")
        chosen = getattr(torch, text)
    elif device.type == "cuda":
        chosen = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    elif device.type == "cpu" and _cpu_has_bfloat16():
        chosen = torch.bfloat16
    else:
        chosen = torch.float32
    assert isinstance(chosen, torch.dtype)
    return chosen


def _cpu_has_bfloat16() -> bool:
    """Whether bfloat16 is multiplied in hardware; emulated, it is slower than float32."""
    import torch

    if hasattr(torch.cpu, "get_capabilities"):
        known = torch.cpu.get_capabilities()
        return bool(known.get("avx512_bf16") or known.get("amx_bf16"))
    flags = Path("/proc/cpuinfo")
    text = flags.read_text(errors="replace") if flags.is_file() else ""
    return "avx512_bf16" in text or "amx_bf16" in text


def _load_transformers(name: str, device: torch.device, dtype: torch.dtype) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    )

    from genmm_retriever.models.processors import load_processor
    from genmm_retriever.models.transformers_mllm import TransformersMLLM

    options = {"trust_remote_code": False, "local_files_only": not is_reachable(name)}
    try:
        config = AutoConfig.from_pretrained(name, **options)
        auto: Any
        if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
            auto = AutoModelForImageTextToText
        elif type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
            auto = AutoModelForCausalLM
        else:
            raise ModelError(
                f"{name!r} is a {config.model_type} model, which writes no text",
                "name an image-text-to-text or a causal language model",
            )
        processor = load_processor(name, config, **options)
        model, report = auto.from_pretrained(
            name, dtype=dtype, use_safetensors=True, output_loading_info=True, **options
        )
    except GenmmError:
        raise
    except Exception as error:
        raise _explained(name, error) from error
    missing = sorted(report.get("missing_keys", ()))
    if missing:
        raise ModelError(
            f"the weights of {name!r} lack {len(missing)} tensors, the first is {missing[0]}",
            "fetch the model again, or check that config.json belongs to the weights",
        )
    return TransformersMLLM(model.to(device), processor, name=name)


def is_reachable(name: str) -> bool:
    """Whether asking the hub makes sense: not for folders, and not without a network.

    Raises:
        ModelNotFoundError: If the name is a path and there is no model.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelNotFoundError(
                f"the folder {name!r} has no config.json",
                "name a folder written by save_pretrained",
            )
        return False
    if path.exists():
        raise ModelNotFoundError(
            f"{name!r} is a file, not a model's folder", "name the folder that config.json lies in"
        )
    if name.startswith((".", "~", os.sep)) or "\\" in name or name.count("/") > 1:
        raise ModelNotFoundError(f"there is no model folder {name!r}", "check the path")
    if any(os.environ.get(key) for key in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY")):
        return True
    host = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname or ""
    try:
        # The hub client would retry a name that does not resolve for half a minute.
        socket.getaddrinfo(host, 443)
    except OSError:
        return False
    return True


def _adapter_base(name: str) -> str | None:
    """The base model's name if `name` is a PEFT folder that is no model itself."""
    folder = Path(name).expanduser()
    settings = folder / "adapter_config.json"
    if not settings.is_file() or (folder / "config.json").is_file():
        return None
    try:
        base = json.loads(settings.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (ValueError, OSError, AttributeError) as error:
        raise ModelError(f"{str(settings)!r} cannot be read", "train the adapter again") from error
    if not base:
        raise ModelError(
            f"{str(settings)!r} names no base model",
            "name the model; its adapter goes with it by adapter= in Python",
        )
    return str(base)


def _explained(name: str, error: Exception) -> ModelError:
    """What went wrong inside transformers, in one line and with the mend."""
    text = str(error)
    line = next((part.strip() for part in text.splitlines() if part.strip()), repr(error))
    if "trust_remote_code" in text:
        return ModelError(
            f"{name!r} brings Python code of its own, which is never run",
            "name a model that transformers itself supports",
        )
    if isinstance(error, ImportError):
        return ModelError(f"{name!r} needs a package that is not installed: {line}", "install it")
    if isinstance(error, (ValueError, KeyError)) and "model type" in text.lower():
        return ModelError(
            f"the installed transformers does not know the architecture of {name!r}",
            "pip install --upgrade transformers",
        )
    local = Path(name).expanduser().is_dir()
    if "safetensors" in text or (local and isinstance(error, OSError) and "weight" in text.lower()):
        return ModelNotFoundError(
            f"{name!r} has no weights in safetensors format, the only one that is loaded",
            "convert it by save_pretrained",
        )
    if isinstance(error, OSError) and not local:
        close = difflib.get_close_matches(name, [BUILTIN], cutoff=0.7)
        hint = f'did you mean "{close[0]}"?' if close else _OFFLINE_HINT
        return ModelNotFoundError(f"the model {name!r} was not found, here or on the hub", hint)
    return ModelError(f"the model {name!r} cannot be loaded: {line}", "fetch it again")
