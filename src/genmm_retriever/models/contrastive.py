"""Contrastive encoders beside the language model: CLIP and its kin.

They stand in for a model's own contrastive head in the fused verifier; most multimodal language
models have none. By name:

- `"open-clip:ViT-B-32/laion2b_s34b_b79k"`: an architecture and a tag of open-clip, or the path of
  a safetensors file in the tag's place (`pip install "genmm-retriever[clip]"`),
- `"open-clip:hf-hub:ORG/NAME"`: weights that open-clip reads from the Hugging Face hub,
- anything else: a CLIP or SigLIP model of `transformers`, by its hub name or folder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from genmm_retriever.errors import GenmmError, MissingExtraError, ModelError, ModelNotFoundError
from genmm_retriever.models.fingerprints import fingerprint_of
from genmm_retriever.models.loading import BUILTIN, is_reachable, pick_device

if TYPE_CHECKING:
    from PIL import Image

OPEN_CLIP = "open-clip:"
"""Names that begin so are models of open-clip."""
_EVEN = 0.25
"""Cosine of a picture and a text that fit as likely as not, where training left no bias that
says so: CLIP's pairs lie about 0.3, other captions of photographs about 0.2."""
_TEXTS_AT_ONCE = 256


@runtime_checkable
class ContrastiveEncoder(Protocol):
    """Vectors of pictures and texts whose cosine says how well they fit."""

    @property
    def name(self) -> str:
        """What it is called; an index remembers it."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes when the weights do."""
        ...

    @property
    def scale(self) -> float:
        """What cosines are multiplied by in its training (the inverse temperature)."""
        ...

    @property
    def even(self) -> float:
        """Cosine at which a picture and a text fit as likely as not."""
        ...

    def embed_pictures(self, images: Sequence[Image.Image]) -> Tensor:
        """Unit vectors of n open pictures, [n, d], float32, on the CPU."""
        ...

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors of n texts, [n, d], float32, on the CPU."""
        ...


class ClipEncoder:
    """A CLIP-like model with its picture transform and its tokenizer.

    Args:
        name: What an index remembers it by.
        model: Has `logit_scale` and perhaps `logit_bias`, as logarithm and as it is.
        see: Unit or other vectors of pictures, from open ones.
        read: The same of texts.
    """

    def __init__(
        self,
        name: str,
        model: Any,
        see: Callable[[Sequence[Image.Image]], Tensor],
        read: Callable[[Sequence[str]], Tensor],
    ) -> None:
        self.name = name
        self.model = model.eval()
        self._see, self._read = see, read
        self._fingerprint: str | None = None
        self.scale = float(model.logit_scale.detach().exp())
        bias = getattr(model, "logit_bias", None)
        self.even = _EVEN if bias is None else -float(bias.detach()) / self.scale

    @property
    def fingerprint(self) -> str:
        """Of the weights, whatever their dtype and device."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint_of(self.model)
        return self._fingerprint

    @torch.no_grad()
    def embed_pictures(self, images: Sequence[Image.Image]) -> Tensor:
        """See `ContrastiveEncoder`."""
        return _unit(self._see([image.convert("RGB") for image in images]))

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """See `ContrastiveEncoder`; texts are cut where the model's context ends."""
        parts = [
            _unit(self._read(texts[start : start + _TEXTS_AT_ONCE]))
            for start in range(0, len(texts), _TEXTS_AT_ONCE)
        ]
        return torch.cat(parts)


def _unit(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors.float(), dim=-1).cpu()


def load_contrastive(name: str, *, device: str | torch.device | None = None) -> ContrastiveEncoder:
    """Load a contrastive encoder by its name; see the module for names.

    Args:
        name: Of open-clip or of transformers.
        device: Such as `"cpu"` or `"cuda:0"`; by default a GPU if there is one.

    Raises:
        MissingExtraError: If a package is not installed.
        ModelNotFoundError: If there is no such model, or its files cannot be reached.
        ModelError: If it is no contrastive model of pictures and texts.
    """
    if not name.strip():
        raise ModelNotFoundError("the name of the contrastive model is empty", _HINT)
    if name == BUILTIN:
        raise _no_encoder(name, "language")
    where = pick_device(device)
    if name.startswith(OPEN_CLIP):
        return _open_clip(name, where)
    # An index remembers the name, and is asked from other folders.
    folder = Path(name).expanduser()
    return _of_transformers(str(folder.resolve()) if folder.is_dir() else name, where)


_HINT = 'name one like "open-clip:ViT-B-32/laion2b_s34b_b79k" or "openai/clip-vit-base-patch32"'


def _open_clip(name: str, device: torch.device) -> ClipEncoder:
    try:
        import open_clip
    except ImportError as error:
        raise MissingExtraError("open-clip-torch", "clip") from error
    wanted = name.removeprefix(OPEN_CLIP)
    hub = wanted.startswith(("hf-hub:", "local-dir:"))
    architecture, _, tag = (wanted, "", "") if hub else wanted.partition("/")
    if not hub:
        _check_tag(open_clip, name, architecture, tag)
        if Path(tag).is_file():
            tag = str(Path(tag).resolve())
            name = f"{OPEN_CLIP}{architecture}/{tag}"
    try:
        model, transform = open_clip.create_model_from_pretrained(
            architecture, pretrained=tag or None, device=device
        )
        tokenizer = open_clip.get_tokenizer(architecture)
    except Exception as error:
        raise _unreachable(name, error) from error

    def see(images: Sequence[Image.Image]) -> Tensor:
        return _tensor(model.encode_image(torch.stack([transform(i) for i in images]).to(device)))

    def read(texts: Sequence[str]) -> Tensor:
        return _tensor(model.encode_text(tokenizer(list(texts)).to(device)))

    return ClipEncoder(name, model, see, read)


def _check_tag(open_clip: Any, name: str, architecture: str, tag: str) -> None:
    if architecture not in open_clip.list_models():
        raise ModelNotFoundError(f"open-clip knows no architecture {architecture!r}", _HINT)
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag in tags:
        return
    # Other files may be pickles, which can run code.
    if not tag.endswith(".safetensors"):
        known = f"there are {', '.join(tags[:8])}" if tags else "it has no tags"
        raise ModelNotFoundError(
            f"{name!r} names no weights that open-clip knows",
            f"{known}; or the path of a .safetensors file",
        )


def _of_transformers(name: str, device: torch.device) -> ClipEncoder:
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    options = {"trust_remote_code": False, "local_files_only": not is_reachable(name)}
    try:
        config = AutoConfig.from_pretrained(name, **options)
        # Before gigabytes of a model are read that cannot be used.
        kind = MODEL_MAPPING.get(type(config), None)
        if not hasattr(kind, "get_image_features") or not hasattr(kind, "get_text_features"):
            raise _no_encoder(name, config.model_type)
        model = AutoModel.from_pretrained(name, use_safetensors=True, **options).to(device)
        if not hasattr(model, "logit_scale"):
            raise _no_encoder(name, config.model_type)
        processor: Any = AutoImageProcessor.from_pretrained(name, **options)  # type: ignore[no-untyped-call]
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
    except GenmmError:
        raise
    except Exception as error:
        raise _unreachable(name, error) from error
    # SigLIP was trained on texts of its whole context, padding included.
    padding = "max_length" if hasattr(model, "logit_bias") else True
    longest = config.text_config.max_position_embeddings

    def see(images: Sequence[Image.Image]) -> Tensor:
        pixels = processor(images=list(images), return_tensors="pt")["pixel_values"]
        return _tensor(model.get_image_features(pixel_values=pixels.to(device)))

    def read(texts: Sequence[str]) -> Tensor:
        given = tokenizer(
            list(texts),
            padding=padding,
            truncation=True,
            max_length=longest,
            return_tensors="pt",
        )
        named = ("input_ids", "attention_mask") if padding is True else ("input_ids",)
        return _tensor(model.get_text_features(**{key: given[key].to(device) for key in named}))

    return ClipEncoder(name, model, see, read)


def _tensor(found: Any) -> Tensor:
    """The vectors, which some versions wrap."""
    vectors: Tensor = found if isinstance(found, Tensor) else found.pooler_output
    return vectors


def _no_encoder(name: str, kind: str) -> ModelError:
    return ModelError(
        f"{name!r} is a {kind} model, no contrastive one of pictures and texts", _HINT
    )


def _unreachable(name: str, error: Exception) -> ModelError:
    text = str(error)
    line = next((part.strip() for part in text.splitlines() if part.strip()), repr(error))
    return ModelNotFoundError(f"the contrastive model {name!r} cannot be loaded: {line}", _HINT)
