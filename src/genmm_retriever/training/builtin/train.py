"""`genmm train builtin`: from captioned pictures to the weights that the package ships."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from genmm_retriever.identifiers import StructuredIdentifiers
from genmm_retriever.models.builtin.assembly import HEAD_FILE, read_settings, untrained
from genmm_retriever.models.builtin.contrastive import TwinTowers
from genmm_retriever.models.builtin.modeling import GenmmBuiltinForConditionalGeneration
from genmm_retriever.models.builtin.smollm2 import fetch_gguf
from genmm_retriever.models.builtin.text import word_ids
from genmm_retriever.models.quiet import no_progress_bars
from genmm_retriever.models.sentences import MiniLMEncoder
from genmm_retriever.training.builtin.card import model_card
from genmm_retriever.training.builtin.contrastive import (
    ContrastiveData,
    sentence_side,
    train_contrastive,
)
from genmm_retriever.training.builtin.data import CaptionedImages, read_captioned, read_questions
from genmm_retriever.training.builtin.examples import IdentifierExamples, nearest_pictures
from genmm_retriever.training.builtin.finding import FindingExamples, finding_steps
from genmm_retriever.training.builtin.looking import load_data, load_questions
from genmm_retriever.training.builtin.matching import fit_matching
from genmm_retriever.training.builtin.stages import Curriculum
from genmm_retriever.training.builtin.targets import (
    contrastive_data,
    finding_data,
    label_probabilities,
)
from genmm_retriever.training.builtin.trainer import Learner, Stage, run_stage
from genmm_retriever.training.storing import store_json, storing

LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
_CAPTIONING_SHARE = 0.3
_TELLING_SHARE = 0.2
_FINDING_SHARE = 0.35
_SETTLING_SHARE = 0.15
_NEIGHBOURS = 30


def train(
    sources: Sequence[Path],
    output: Path,
    *,
    questions: Path | None = None,
    minutes: float | None = None,
    limit: int | None = None,
    seed: int = 0,
    device: str | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Train projector, adapter and contrastive heads; an interrupted run goes on.

    Captioning comes first, then look-alike pictures are told apart by their likelihoods
    while queries are mapped to identifiers; at last to identifiers that begin with topics.
    Everything in progress lies in `output / "work"`.

    Args:
        sources: Captioned-images JSONL files.
        questions: JSONL of questions about further pictures and what answers them:
            `{"id", "image", "question", "answers": [...]}` a line.
        output: Folder of the weights, the settings and the model card.
        minutes: Time for the three stages of the language model; None for all steps.
        limit: Most pictures.
        seed: Of all choices.
        device: Where to train; by default a GPU if there is one.
        progress: Show bars on stderr.

    Returns:
        Figures of the training.

    Raises:
        SourceError: If a source cannot be read or holds no caption.
        StorageError: If the disk is full or cannot be written.
    """
    from genmm_retriever.models.loading import pick_device

    # The model takes a minute or more: what is wrong with the sources is told before.
    for source in sources:
        read_captioned(source)
    if questions is not None:
        read_questions(questions)
    work = output / "work"
    with storing(work):
        work.mkdir(parents=True, exist_ok=True)
    where = pick_device(device)
    torch.manual_seed(seed)
    model, processor = untrained(fetch_gguf(progress=progress))
    config: Any = model.config
    data = load_data(sources, model, work, limit=limit, progress=progress)
    asked = None if questions is None else load_questions(questions, model, work, progress=progress)
    _start_at_word_scale(model)
    figures: dict[str, Any] = {"pictures": len(data), "captions": sum(map(len, data.captions))}
    figures["questions"] = 0 if asked is None else len(asked[0])
    figures |= _contrastive_heads(model, processor.tokenizer, data, work, seed, progress)
    adapter = add_adapter(model)
    model.model.language_model.to(torch.bfloat16)
    model.lm_head.weight = model.model.get_input_embeddings().weight
    learner = Learner(model, where)
    curriculum = Curriculum(data, processor.tokenizer, config, seed)
    share = None if minutes is None else minutes * _CAPTIONING_SHARE
    stage = Stage("captioning", steps=2000, minutes=share)
    figures["captioning"] = run_stage(
        learner, stage, curriculum.captioning(8), work, progress=progress
    )
    share = None if minutes is None else minutes * _TELLING_SHARE
    stage = Stage(
        "telling-apart", steps=1000, minutes=share, learning_rate=3e-4, projector_rate=5e-4
    )
    examples = IdentifierExamples(data, _identifiers(data, work, seed), processor.tokenizer, config)
    near = _neighbours(model, data)
    steps = curriculum.discriminative(2, 6, near.numpy(), examples)
    figures["telling_apart"] = run_stage(learner, stage, steps, work, progress=progress)
    share = None if minutes is None else minutes * _FINDING_SHARE
    stage = Stage(
        "finding",
        steps=1500,
        minutes=share,
        learning_rate=8e-4,
        projector_rate=5e-4,
        save_every=25,
    )
    targets = finding_data(model, data, work, asked, seed=seed)
    finding = FindingExamples(data, targets, processor.tokenizer, config)
    telling = Curriculum(data, processor.tokenizer, config, seed + 1).discriminative(
        1, 6, near.numpy()
    )
    steps = finding_steps(finding, telling, seed=seed)
    figures["finding"] = run_stage(learner, stage, steps, work, progress=progress)
    # Finding at a high rate costs some of what was learnt before; that is won back here.
    share = None if minutes is None else minutes * _SETTLING_SHARE
    stage = Stage("settling", steps=400, minutes=share, learning_rate=3e-4, warmup=5, save_every=25)
    telling = Curriculum(data, processor.tokenizer, config, seed + 2).discriminative(
        2, 6, near.numpy()
    )
    steps = finding_steps(finding, telling, every=1, seed=seed + 1)
    figures["settling"] = run_stage(learner, stage, steps, work, progress=progress)
    figures["topics"] = len(config.topics)
    with storing(output):
        write_settings(output, config)
        export(model, adapter, output)
        (output / "MODEL_CARD.md").write_text(model_card(sources, figures), encoding="utf-8")
    return figures


def _start_at_word_scale(model: GenmmBuiltinForConditionalGeneration) -> None:
    """Visual tokens begin at the scale of word embeddings, which the language model expects."""
    scale = float(model.model.get_input_embeddings().weight.detach().float().std())
    down = model.model.projector.down
    torch.nn.init.normal_(down.weight, std=1.5 * scale / down.in_features**0.5)
    torch.nn.init.zeros_(down.bias)


def add_adapter(model: GenmmBuiltinForConditionalGeneration) -> Any:
    """Put LoRA layers into the language model; the PEFT model that can save them."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=16, lora_alpha=16, lora_dropout=0.0, target_modules=LORA_TARGETS)
    with no_progress_bars():
        return get_peft_model(model.model.language_model, config)


def _contrastive_heads(
    model: GenmmBuiltinForConditionalGeneration,
    tokenizer: Any,
    data: CaptionedImages,
    work: Path,
    seed: int,
    progress: bool,
) -> dict[str, float]:
    """Train both heads, or take those that an earlier run trained; their losses in nats."""

    def seen() -> ContrastiveData:
        if not kept:
            kept.append(contrastive_data(model, data))
        return kept[0]

    def first() -> float:
        side = sentence_side(model.contrastive, seen())
        return train_contrastive(model.contrastive, seen(), side, seed=seed, progress=progress)

    def second() -> float:
        tokens = [word_ids(tokenizer, text) for some in data.captions for text in some]
        embedding: Any = model.get_input_embeddings().weight
        words = embedding.detach().float()
        return fit_matching(model.matching, seen(), tokens, words, seed=seed + 1, progress=progress)

    kept: list[ContrastiveData] = []
    return {
        "contrastive_loss": _once(model.contrastive, work / "contrastive.safetensors", first),
        "matching_loss": _once(model.matching, work / "matching.safetensors", second),
    }


def _once(head: TwinTowers, path: Path, train: Callable[[], float]) -> float:
    """Train a head, or take the one that an earlier run trained; its loss."""
    from safetensors import safe_open
    from safetensors.torch import load_file

    if path.is_file():
        head.load_state_dict(load_file(path), strict=False)  # topics come later
        with safe_open(path, "pt") as file:
            return float(file.metadata()["loss"])
    loss = train()
    tensors = {name: value.contiguous() for name, value in head.state_dict().items()}
    temporary = path.with_suffix(".tmp")
    with storing(path):
        save_file(tensors, temporary, metadata={"loss": str(loss)})
        temporary.replace(path)
    return loss


def write_settings(output: Path, config: Any) -> None:
    """Keep the names of the topics beside the weights, with what else is there."""
    path = output / "builtin.json"
    settings = read_settings(output)
    settings["config"] = settings.get("config", {}) | {"topics": config.topics}
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _identifiers(data: CaptionedImages, work: Path, seed: int) -> list[list[str]]:
    """Identifiers of the human captions of each picture, made once."""
    path = work / "identifiers.json"
    if path.is_file():
        kept: list[list[str]] = json.loads(path.read_text(encoding="utf-8"))
        if len(kept) == len(data):
            return kept
    encoder = MiniLMEncoder()
    scheme = StructuredIdentifiers.fit(data.captions, encoder, seed=seed)
    found = scheme.assign(data.captions, taken=set())
    store_json(path, found)
    return found


def _neighbours(model: GenmmBuiltinForConditionalGeneration, data: CaptionedImages) -> Tensor:
    """The pictures that the contrastive head confuses most with each."""
    features = torch.from_numpy(np.array(data.features)).float()
    with torch.no_grad():
        head = model.contrastive.cpu().eval()
        vectors = head.embed_images(features, label_probabilities(model, features))
    return nearest_pictures(vectors, count=min(_NEIGHBOURS, len(data) - 1))


def export(model: GenmmBuiltinForConditionalGeneration, adapter: Any, output: Path) -> None:
    """Write what ships: projector, object words and contrastive heads, and the PEFT adapter."""
    derived = (
        "contrastive.label_vectors",
        "matching.label_vectors",
        "model.objects.label_tokens",
    )
    head = {
        name: value.detach().to(torch.float16).contiguous()
        for name, value in model.state_dict().items()
        if name.startswith(("model.projector.", "model.objects.", "contrastive.", "matching."))
        and name not in derived
    }
    save_file(head, output / HEAD_FILE)
    for value in (p for n, p in model.named_parameters() if "lora_" in n):
        value.data = value.data.to(torch.float16)
    adapter.save_pretrained(str(output), safe_serialization=True)
    (output / "README.md").unlink(missing_ok=True)  # PEFT's template; ours is MODEL_CARD.md
