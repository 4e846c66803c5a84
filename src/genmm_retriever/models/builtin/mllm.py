"""The builtin model behind the protocol of `genmm_retriever.models.base`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from genmm_retriever.models.base import ImagePart, Prompt, TextPart
from genmm_retriever.models.builtin.assembly import (
    ASSETS,
    COMPOSER_FILE,
    assembled_folder,
    completed,
    read_settings,
)
from genmm_retriever.models.builtin.composer import Composer, load_composer
from genmm_retriever.models.builtin.modeling import GenmmBuiltinForConditionalGeneration
from genmm_retriever.models.builtin.processing import GenmmBuiltinProcessor, pixel_values
from genmm_retriever.models.builtin.text import (
    answer_ids,
    padded_words,
    prompt_ids,
    word_ids,
)
from genmm_retriever.models.quiet import no_progress_bars
from genmm_retriever.models.sentences import MiniLMEncoder
from genmm_retriever.models.transformers_mllm import TransformersMLLM

_IMAGES_AT_ONCE = 16
CENTRE_SHARPNESS = 10.0
"""Of a query's distribution over what lies under the topics of a collection."""
_SHARES = (0.25, 0.75)
"""Of the contrastive heads in a cosine; the second knows more."""


class BuiltinMLLM(TransformersMLLM):
    """The builtin model: cached picture features, its own short prompts, a contrastive head.

    Args:
        model: From the assembled folder.
        processor: Likewise.
        calibration: Weights of the verifier's parts, fitted after training.
        composer: Makes one vector of a picture and a change; None for their sum. It reads queries
            alone, so the fingerprint, which indexes depend on, does not.
    """

    prompt_style = "builtin"

    def __init__(
        self,
        model: GenmmBuiltinForConditionalGeneration,
        processor: GenmmBuiltinProcessor,
        *,
        name: str = "builtin",
        calibration: dict[str, Any] | None = None,
        composer: Composer | None = None,
    ) -> None:
        super().__init__(model, processor, name=name)
        self.calibration = calibration or {}
        self._composer = None if composer is None else composer.to(self.device)
        self._sentences: MiniLMEncoder | None = None
        self._ids = lru_cache(maxsize=4096)(self._prompt_ids)
        self._sentence = lru_cache(maxsize=256)(lambda text: self._encode_sentences([text]))

    @property
    def sentences(self) -> MiniLMEncoder:
        """The sentence encoder in front of the contrastive head; loaded on first use."""
        if self._sentences is None:
            self._sentences = MiniLMEncoder(device=str(self.device))
        return self._sentences

    def encode(self, text: str) -> list[int]:
        """Token ids of an answer, in the spelling that answers were trained in."""
        return answer_ids(self.tokenizer, text)

    def _prompt_ids(self, parts: tuple[str | None, ...]) -> list[int]:
        config = self.model.config
        return prompt_ids(self.tokenizer, parts, config.image_token_id, config.image_seq_length)

    def encode_prompt(self, prompt: Prompt) -> dict[str, Tensor]:
        """`input_ids`, `attention_mask` [1, L] and `image_features` [pictures, rows, dim]."""
        texts = tuple(part.text if isinstance(part, TextPart) else None for part in prompt.parts)
        ids = list(self._ids(texts))
        if prompt.answer:
            ids += self.encode(prompt.answer)
        encoded = {
            "input_ids": torch.tensor([ids]),
            "attention_mask": torch.ones(1, len(ids), dtype=torch.long),
        }
        pictures = [part for part in prompt.parts if isinstance(part, ImagePart)]
        if pictures:
            encoded["image_features"] = torch.stack([self._features(part) for part in pictures])
        return encoded

    def _features(self, part: ImagePart) -> Tensor:
        if part.features is not None:
            return part.features.float()
        assert part.image is not None
        return self.encode_images([part.image])[0].float()

    @torch.no_grad()
    def encode_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Features [len(images), rows, vision_dim], float16: the grid's cells, and lower layers."""
        size = self.model.config.image_size
        parts = []
        for start in range(0, len(images), _IMAGES_AT_ONCE):
            pixels = pixel_values(images[start : start + _IMAGES_AT_ONCE], size)
            parts.append(self.model.get_image_features(pixels.to(self.device)).half().cpu())
        return torch.cat(parts)

    @torch.no_grad()
    def nearness(self, images: Tensor) -> Tensor:
        """How much nearer than others pictures are to queries in general, [n].

        To be taken off their cosines with a text; see `WordedHead.nearness`.

        Args:
            images: Unit vectors of n pictures, of `embed_images`, [n, d].
        """
        taken: Tensor = _SHARES[1] * self.model.matching.nearness(_matching_part(images))
        return taken

    @torch.no_grad()
    def text_nearness(self, texts: Tensor) -> Tensor:
        """How much nearer than others texts are to what pictures are asked for with, [n].

        To be taken off their cosines with a picture; see `WordedHead.text_nearness`.

        Args:
            texts: Unit vectors of n texts, of `embed_texts`, [n, d].
        """
        taken: Tensor = _SHARES[1] * self.model.matching.text_nearness(_matching_part(texts))
        return taken

    @torch.no_grad()
    def embed_images(self, features: Tensor) -> Tensor:
        """Unit vectors [n, d] of grid features: those of both contrastive heads in one."""
        features = features.to(self.device).float()
        probabilities = self.model.model.classify(features)
        return _joined(
            self.model.contrastive.embed_images(features, probabilities),
            self.model.matching.embed_images(features, probabilities),
        )

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors [n, d] of texts: those of both contrastive heads in one."""
        sentences = self._sentence_vectors(texts)
        tokens = padded_words([word_ids(self.tokenizer, text) for text in texts]).to(self.device)
        embedding: Any = self.model.get_input_embeddings().weight
        return _joined(
            self.model.contrastive.embed_texts(sentences),
            self.model.matching.embed_texts(sentences, tokens, embedding),
        )

    @torch.no_grad()
    def compose(self, images: Tensor, texts: Tensor) -> Tensor:
        """Unit vectors [n, d] of the pictures that changes of pictures lead to.

        Args:
            images: Unit vectors of the pictures, of `embed_images`, [n, d].
            texts: Unit vectors of the changes, of `embed_texts`, [n, d].
        """
        if self._composer is None:
            return torch.nn.functional.normalize(images + texts, dim=-1)
        composed: Tensor = self._composer(images, texts)
        return composed

    def _sentence_vectors(self, texts: Sequence[str]) -> Tensor:
        vectors: Tensor = (
            self._sentence(texts[0]) if len(texts) == 1 else self._encode_sentences(texts)
        )
        return vectors

    @torch.no_grad()
    def _topic_vectors(self, features: Tensor | None, texts: Sequence[str]) -> Tensor:
        """Unit vectors [n, d] in the space of the topics, of pictures or else of texts."""
        head = self.model.contrastive
        if features is None:
            vectors: Tensor = head.embed_texts(self._sentence_vectors(texts))
            return vectors
        features = features.to(self.device).float()
        vectors = head.embed_images(features, self.model.model.classify(features))
        return vectors

    @property
    def topic_names(self) -> list[str]:
        """Names of all topics."""
        return list(self.model.config.topics)

    def topics(
        self, most: int, *, features: Tensor | None = None, texts: Sequence[str] = ()
    ) -> list[list[str]]:
        """Names of the topics that pictures or texts belong to, the nearest first.

        Topics lie in the space of the contrastive head, so that a query's words lead to those
        of the pictures it asks for; the language model was trained to write their names.

        Args:
            most: Topics each.
            features: Grid features of n pictures, [n, rows, vision_dim].
            texts: n texts, if there are no pictures.
        """
        names = self.model.config.topics
        if not names or (features is None and not texts):
            return [[] for _ in (texts if features is None else features)]
        vectors = self._topic_vectors(features, texts)
        found = self.model.contrastive.nearest_topics(vectors, most)
        return [[names[i] for i in row] for row in found.tolist()]

    @torch.no_grad()
    def topic_logprobs(
        self, text: str | None, features: Tensor | None, centres: Tensor | None = None
    ) -> list[float]:
        """How likely each topic is meant by a query, in the order of the configuration's names.

        Args:
            text: Its words, or None.
            features: Grid features of its picture, [rows, vision_dim], or None.
            centres: Unit vectors of what lies under each topic in a collection, [topics, d];
                None for the topics' own centres.
        """
        if centres is not None:
            wanted = self._wanted(text, features)
            logits = CENTRE_SHARPNESS * centres.to(wanted.device) @ wanted
            found: list[float] = logits.log_softmax(dim=-1).tolist()
            return found
        head = self.model.contrastive
        if text is not None and features is not None:
            images, texts = self.embed_images(features.unsqueeze(0)), self.embed_texts([text])
            # The first head's part of it: the topics lie there.
            part = self.compose(images, texts)[:, : images.shape[1] // 2]
            vectors = torch.nn.functional.normalize(part, dim=-1)
        else:
            pictures = None if features is None else features.unsqueeze(0)
            vectors = self._topic_vectors(pictures, [] if text is None else [text])
        [vector] = vectors
        logprobs: list[float] = head.topic_logprobs(vector).tolist()
        return logprobs

    def _wanted(self, text: str | None, features: Tensor | None) -> Tensor:
        """The unit vector of what a query looks for, [d]."""
        images = None if features is None else self.embed_images(features.unsqueeze(0))
        texts = None if text is None else self.embed_texts([text])
        if images is not None and texts is not None:
            return self.compose(images, texts)[0]
        one = texts if images is None else images
        assert one is not None
        return one[0]

    @torch.no_grad()
    def match_objects(self, text: str, features: Tensor) -> Tensor:
        """Expected cosine of a text and the labels that the pictures' classifier sees, [n].

        Labels are things that no caption of the training may have named.
        """
        labels = self.model.contrastive.label_vectors.float()
        similar = labels @ torch.nn.functional.normalize(self._sentence(text)[0], dim=-1)
        expected: Tensor = self.model.model.classify(features.to(self.device).float()) @ similar
        return expected

    def _encode_sentences(self, texts: Sequence[str]) -> Tensor:
        return torch.from_numpy(self.sentences.encode(list(texts))).to(self.device).float()

    @torch.no_grad()
    def object_words(
        self, features: Tensor, *, least: float = 0.1
    ) -> list[list[tuple[str, float]]]:
        """What the picture's classifier sees, with its probability, likeliest first.

        Args:
            features: Grid features [n, rows, vision_dim].
            least: Labels below this probability are left out.
        """
        from genmm_retriever.models.builtin.labels import likely_labels

        return likely_labels(self.model.model.classify(features.to(self.device)), least)


def _joined(*vectors: Tensor) -> Tensor:
    """Unit vectors whose cosines are the weighted means of those of the parts."""
    parts = [math.sqrt(share) * one for share, one in zip(_SHARES, vectors, strict=True)]
    return torch.cat(parts, dim=-1)


def _matching_part(vectors: Tensor) -> Tensor:
    """The second head's part of joined vectors, [n, d] -> unit vectors [n, d / 2]."""
    return torch.nn.functional.normalize(vectors[:, vectors.shape[1] // 2 :], dim=-1)


def load_builtin(
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    folder: Path | None = None,
    progress: bool = True,
) -> BuiltinMLLM:
    """Load the builtin model; the first time its weights are fetched and put together.

    Args:
        device: Where to run.
        dtype: Of the language model; the small vision side stays in float32.
        folder: An assembled folder to load instead of the cached one.
        progress: Whether to say on stderr what is fetched.

    Raises:
        ModelNotFoundError: If the language model cannot be fetched.
        MissingExtraError: If a package of the extra `builtin` is absent.
        StorageError: If the cache cannot be written.
    """
    # The composer that ships fits the heads that ship; another folder has its own, or none.
    parts = folder or ASSETS
    folder = folder or assembled_folder(progress=progress)
    return _from_folder(folder, parts, read_settings(), device=device, dtype=dtype)


def load_trained(
    folder: Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    progress: bool = True,
) -> BuiltinMLLM:
    """The builtin model with parts that `genmm train builtin`, `matching` or `composer` wrote.

    Args:
        folder: What they wrote; shipped parts stand in for those that it lacks.
        device: Where to run.
        dtype: As for `load_builtin`.
        progress: Whether to say on stderr what is fetched.

    Raises:
        ModelError: If the parts are damaged or do not fit; and as `load_builtin`.
    """
    with completed(folder) as parts:
        settings = {**read_settings(), **read_settings(parts)}
        whole = assembled_folder(assets=parts, progress=progress)
        return _from_folder(
            whole, parts, settings, device=device, dtype=dtype, name=str(folder.resolve())
        )


def _from_folder(
    folder: Path,
    parts: Path,
    settings: dict[str, Any],
    *,
    device: str | torch.device,
    dtype: torch.dtype,
    name: str = "builtin",
) -> BuiltinMLLM:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    with no_progress_bars():
        model: Any = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=dtype, local_files_only=True, use_safetensors=True
        )
        processor: Any = AutoProcessor.from_pretrained(  # type: ignore[no-untyped-call]
            folder, local_files_only=True
        )
    composer = load_composer(parts / COMPOSER_FILE, 2 * model.config.contrastive_dim)
    calibration = settings.get("calibration")
    return BuiltinMLLM(
        model.to(device), processor, name=name, calibration=calibration, composer=composer
    )
