"""Builds a small index and changes it, in a process of its own that comes to a bad end.

It does what a retriever does: stage, then each stage in batches, then publish. Running it again
after a kill ends the same::

    python builder.py FOLDER run PAUSE     the whole way, slowly, to be killed from outside
    python builder.py FOLDER die N         killed by itself at its N-th file operation
    python builder.py FOLDER full BYTES    files may not grow beyond; exits 7 on StorageError
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np

from genmm_retriever.corpus.store import (
    Description,
    IdentifierRecord,
    IndexSettings,
    IndexWriter,
)
from genmm_retriever.errors import StorageError
from genmm_retriever.schema import Item

SETTINGS = IndexSettings(model="m", model_fingerprint="f")
SHAPE = (4, 8)


def feature(row):
    return np.random.default_rng(row).random(SHAPE).astype(np.float16)


def item(n, version=0):
    metadata = {"group": n % 3, "version": version}
    if n % 2:
        return Item(id=f"i{n}", text=f"text {n} {version}", metadata=metadata)
    return Item(id=f"i{n}", image=b"picture %d %d" % (n, version), metadata=metadata)


def fill(writer, batch=4, pause=0.0):
    """Bring everything staged to the end of its stages."""
    steps = {
        "features": lambda rows: writer.put_features(rows, np.stack([feature(r) for r in rows])),
        "descriptions": lambda rows: writer.put_descriptions(
            {row: [Description(f"seen {row}")] for row in rows}
        ),
        "identifiers": lambda rows: writer.put_identifiers(
            [
                IdentifierRecord(row, f"group, {row}, {n}", (row, n, 0), (-1.5, -0.25, 0.0))
                for row in rows
                for n in range(2)
            ]
        ),
    }
    for stage, step in steps.items():
        rows = writer.pending(stage)
        for start in range(0, len(rows), batch):
            step(rows[start : start + batch])
            time.sleep(pause)
    records = writer.identifiers()
    writer.put_array("tokens", np.array([r.tokens for r in records], dtype=np.int32).reshape(-1, 3))
    writer.put_array("live/rows", writer.live_rows())
    writer.put_array("live/count", np.array(len(writer.live_rows())))
    fixed = {"numbers": np.arange(3000), "empty": np.zeros((0, 2), dtype=np.float32)}
    writer.put_arrays({f"fixed/part/{name}": array for name, array in fixed.items()})
    writer.put_json("scheme", {"clusters": ["group"]})


def build(folder, count=24, pause=0.0):
    with IndexWriter.create(folder, SETTINGS) as writer:
        writer.stage_items(item(n) for n in range(count))
        fill(writer, pause=pause)
        writer.put_arrays({"first/one": np.ones(5), "first/deep/two": np.full(5, 2.0)})
        writer.publish()


def change(folder, pause=0.0):
    """Replace some, add some, delete one; safe to repeat."""
    with IndexWriter.open(folder) as writer:
        writer.stage_items([item(n, version=1) for n in (0, 1, 2, 30, 31)], replace=True)
        fill(writer, pause=pause)
        writer.publish()
        if "i5" in {each.id for each in writer.items(writer.live_rows())}:
            writer.delete(["i5"])
        writer.drop_arrays("first/")
        fill(writer)
        writer.publish()


def run(folder, pause=0.0):
    """The whole way, from wherever an earlier run was stopped."""
    if not (Path(folder) / "manifest.json").exists():
        build(folder, pause=pause)
    change(folder, pause=pause)


def grow(folder):
    """Add many items."""
    with IndexWriter.open(folder) as writer:
        writer.stage_items(item(n) for n in range(100, 400))
        fill(writer, batch=100)
        writer.publish()


def die_at(step):
    """Let this process be killed right before a file operation, without any clean-up."""
    left = step

    def dying(original):
        def call(*values, **options):
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*values, **options)

        return call

    for name in ("replace", "unlink", "mkdir", "hardlink_to"):
        setattr(Path, name, dying(getattr(Path, name)))
    os.fsync = dying(os.fsync)
    shutil.rmtree = dying(shutil.rmtree)


def main(folder, what, value):
    if what == "run":
        run(folder, pause=float(value))
    elif what == "die":
        die_at(int(value))
        run(folder)
    else:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(value), int(value)))
        try:
            grow(folder)
        except StorageError:
            sys.exit(7)


if __name__ == "__main__":
    main(*sys.argv[1:])
