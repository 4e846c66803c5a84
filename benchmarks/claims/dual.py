"""The peer of the whole system: a dual encoder on the same features, with exact search."""

from __future__ import annotations

from benchmarks.corpora import captioned, models
from benchmarks.harness import Benchmark, Measurement, Options
from benchmarks.peers.dual_encoder import train_and_rank


def dual_encoder(options: Options) -> Measurement:
    """Train on Flickr8k's training photos, search the dev ones both ways."""
    files = {split: captioned.flickr_file(options, split) for split in ("train", "dev")}
    model = models.load(options.model)
    limits = {"train": options.pick(0, 300) or None, "dev": options.pick(0, 100) or None}
    sets = {
        split: captioned.vectors(file, model, options.cache, limit=limits[split])
        for split, file in files.items()
    }
    ranks = train_and_rank(
        sets["train"], sets["dev"], epochs=options.pick(16, 4), seed=options.seed
    )
    recalls = ranks.recalls()
    return Measurement(
        value=recalls["text->image R@1"],
        details={
            "recalls": recalls,
            "training_photos": len(sets["train"].pictures),
            "searched_photos": len(sets["dev"].pictures),
            "captions": len(sets["dev"].owner),
            "training_loss_nats": ranks.loss,
        },
        notes=[
            "pooled features of the model's vision side and MiniLM vectors, both frozen; MLP "
            "1280-1024-1024 with dropout 0.6, InfoNCE, batch 1,024, 16 epochs, exact search",
        ],
    )


BENCHMARKS = (
    Benchmark(
        "dual_encoder",
        "what a user would pick instead: a dual encoder with the same features and data",
        "% (text->image R@1)",
        None,
        dual_encoder,
    ),
)
