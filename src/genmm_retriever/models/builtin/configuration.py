"""Configuration of the builtin model, an ordinary `transformers` configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import LlamaConfig, PreTrainedConfig


class GenmmBuiltinConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """EfficientNet-Lite2 grid features and object words in front of a small Llama.

    A picture takes `image_seq_length` positions: one for the whole picture, one for each cell
    of a `grid` x `grid` pooling, and `object_slots` for the words of the classifier's labels.

    Args:
        text_config: The language model (a `LlamaConfig` or its dict).
        vision_model: Architecture name in `efficientnet_lite_pytorch`.
        vision_dim: Channels of the last feature map.
        image_size: Side of the square that pictures are resized to, in pixels.
        grid: Cells a side after average pooling.
        lower_blocks: Blocks of the vision backbone whose means stand beside the cells; earlier
            layers see colours and textures that the last one has done with.
        lower_dim: Channels of these blocks in all.
        num_labels_vision: Classes of the classifier.
        object_slots: Token positions for object words.
        object_labels: Labels offered at most.
        object_min_probability: Labels below it are left out.
        projector_dim: Hidden width of the projector.
        contrastive_dim: Width of the contrastive head's vectors.
        contrastive_hidden: Hidden width of the contrastive head.
        sentence_dim: Width of the sentence encoder that the contrastive head reads.
        usual_queries: Centres of the queries that pictures are usually asked for with.
        topics: Names of the topics that begin identifiers, in the order of the head's vectors.
        image_token_id: Placeholder of a picture's positions; beyond the language model's
            vocabulary.
    """

    model_type = "genmm_builtin"
    sub_configs = {"text_config": LlamaConfig}  # noqa: RUF012 - the base class declares it so

    def __init__(
        self,
        text_config: LlamaConfig | dict[str, Any] | None = None,
        vision_model: str = "efficientnet-lite2",
        vision_dim: int = 1280,
        image_size: int = 260,
        grid: int = 3,
        lower_blocks: Sequence[int] = (3, 6, 10, 14, 19),
        lower_dim: int = 488,
        num_labels_vision: int = 1000,
        object_slots: int = 8,
        object_labels: int = 3,
        object_min_probability: float = 0.05,
        projector_dim: int = 1024,
        contrastive_dim: int = 512,
        contrastive_hidden: int = 1024,
        sentence_dim: int = 384,
        usual_queries: int = 200,
        topics: Sequence[str] = (),
        image_token_id: int = 49152,
        **kwargs: Any,
    ) -> None:
        if isinstance(text_config, dict):
            text_config = LlamaConfig(**text_config)
        self.text_config = text_config if text_config is not None else LlamaConfig()
        self.vision_model = vision_model
        self.vision_dim = vision_dim
        self.image_size = image_size
        self.grid = grid
        self.lower_blocks = list(lower_blocks)
        self.lower_dim = lower_dim
        self.num_labels_vision = num_labels_vision
        self.object_slots = object_slots
        self.object_labels = object_labels
        self.object_min_probability = object_min_probability
        self.projector_dim = projector_dim
        self.contrastive_dim = contrastive_dim
        self.contrastive_hidden = contrastive_hidden
        self.sentence_dim = sentence_dim
        self.usual_queries = usual_queries
        self.topics = list(topics)
        self.image_token_id = image_token_id
        kwargs.setdefault("tie_word_embeddings", True)
        super().__init__(**kwargs)

    @property
    def feature_rows(self) -> int:
        """Rows of a picture's features: the cells, and one of the lower layers."""
        return self.grid * self.grid + 1

    @property
    def image_seq_length(self) -> int:
        """Positions that one picture takes in a prompt."""
        return 1 + self.grid * self.grid + self.object_slots
