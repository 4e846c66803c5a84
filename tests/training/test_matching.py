"""`genmm train matching`: from captioned pictures to a file with another second head."""

from __future__ import annotations

import errno
import json

import pytest
import torch
from safetensors.torch import load_file

from genmm_retriever.errors import SourceError, StorageError
from genmm_retriever.models.builtin.assembly import HEAD_FILE
from genmm_retriever.training.builtin import train_matching
from genmm_retriever.training.storing import storing


def test_from_files_to_a_head_that_the_model_takes(pictures, make_builtin, tmp_path):
    from genmm_retriever.models.builtin import BuiltinMLLM

    source = pictures / "train.jsonl"
    lines = [{"id": f"n{i}", "image": f"p{i}.png", "captions": [f"One {i}"]} for i in range(6)]
    source.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    tiny = BuiltinMLLM(*make_builtin())
    out = tmp_path / "out"
    figures = train_matching([source], out, model=tiny, progress=False)
    assert (figures["pictures"], figures["captions"]) == (6, 6)
    found = load_file(out / HEAD_FILE)
    assert {value.dtype for value in found.values()} == {torch.float16}
    learnt = {name.removeprefix("matching."): value.float() for name, value in found.items()}
    before = {name: value.clone() for name, value in tiny.model.matching.state_dict().items()}
    missing, unexpected = tiny.model.matching.load_state_dict(learnt, strict=False)
    assert (missing, unexpected) == (["label_vectors"], [])
    changed = tiny.model.matching.state_dict()
    assert not torch.equal(before["lower.2.weight"], changed["lower.2.weight"])
    assert float(changed["usual_shares"].sum()) == pytest.approx(1, abs=1e-3)
    features = torch.stack([torch.zeros(5, 1280), torch.ones(5, 1280)])
    assert tiny.nearness(tiny.embed_images(features)).isfinite().all()


def test_what_cannot_be_read_is_named_before_anything_is_done(tmp_path):
    with pytest.raises(SourceError, match=r"nothing\.jsonl"):
        train_matching([tmp_path / "nothing.jsonl"], tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_is_told_apart_from_a_full_disk(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="choose another folder"), storing(tmp_path / "file/x"):
        (tmp_path / "file" / "x").mkdir()
    with pytest.raises(StorageError, match="free some space"), storing(tmp_path / "x"):
        raise OSError(errno.ENOSPC, "No space left on device")
