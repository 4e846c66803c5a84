"""Processors without torchvision: the video half, which needs it, is left off."""

from __future__ import annotations

from typing import Any

from transformers import AutoProcessor, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.utils.import_utils import is_torchvision_available


def images_only(processor_class: Any) -> Any:
    """A processor class that takes text and pictures, and needs no video processor.

    transformers makes video processors with torchvision alone and refuses a processor without
    one, though its pictures go through PIL.

    Args:
        processor_class: A `ProcessorMixin` class, for example `Qwen3VLProcessor`.
    """
    attributes = processor_class.get_attributes()
    if "video_processor" not in attributes:
        return processor_class
    place = attributes.index("video_processor")

    class ImagesOnly(processor_class):  # type: ignore[misc]
        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in attributes if name != "video_processor"]

        @classmethod
        def from_args_and_dict(cls, args: Any, processor_dict: Any, **kwargs: Any) -> Any:
            settings = {k: v for k, v in processor_dict.items() if k != "video_processor"}
            full = [*args[:place], None, *args[place:]]
            return super().from_args_and_dict(full, settings, **kwargs)

    ImagesOnly.__name__ = processor_class.__name__
    ImagesOnly.__qualname__ = processor_class.__qualname__
    return ImagesOnly


def load_processor(name: str, config: Any, **options: Any) -> Any:
    """The processor of a multimodal model, or the tokenizer of a text-only one.

    Args:
        name: Hub name or local path.
        config: The model's configuration.
        options: Passed on to `from_pretrained`.
    """
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return AutoTokenizer.from_pretrained(name, **options)
    known = type(config) in PROCESSOR_MAPPING
    if known and not is_torchvision_available():
        processor_class: Any = PROCESSOR_MAPPING[type(config)]
        if "video_processor" in processor_class.get_attributes():
            return images_only(processor_class).from_pretrained(name, **options)
    auto: Any = AutoProcessor
    return auto.from_pretrained(name, **options)
