"""What each step shows the model: curriculum and identifier examples."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch

from genmm_retriever.models.builtin.text import answer_ids, normalise, plain_ids
from genmm_retriever.training.builtin.examples import IdentifierExamples, nearest_pictures
from genmm_retriever.training.builtin.stages import Curriculum

EOS = 2


class Recorder:
    """Stands where the learner does; keeps the batches and gives fixed log-probabilities."""

    def __init__(self) -> None:
        self.seen = []

    def logprobs(self, batch, features):
        self.seen.append((batch, features))
        total = torch.zeros(batch.answers, requires_grad=True)
        return total, total.sum() + 1.5


@pytest.fixture(scope="module")
def made(make_builtin):
    model, processor = make_builtin()
    return model.config, processor.tokenizer


@pytest.fixture
def curriculum(captioned, made):
    config, tokenizer = made
    return Curriculum(captioned, tokenizer, config, seed=4)


def run(losses, steps):
    recorder = Recorder()
    found = [next(losses)(recorder) for _ in range(steps)]
    return recorder.seen, found


def same(one, other):
    return all(
        torch.equal(a.input_ids, b.input_ids)
        and torch.equal(a.target, b.target)
        and torch.equal(f, g)
        for (a, f), (b, g) in zip(one, other, strict=True)
    )


def test_an_epoch_shows_every_picture_with_all_its_captions(curriculum, captioned, made):
    config, tokenizer = made
    seen, found = run(curriculum.captioning(4), 3)
    shown = []
    for batch, features in seen:
        assert features.shape == (4, 4, 1280)
        assert batch.answers == 12
        begin = batch.input_ids[:, : 1 + config.image_seq_length]
        assert bool((begin[:, 1:] == config.image_token_id).all())
        answers = [batch.target[batch.answer == n].tolist() for n in range(batch.answers)]
        assert all(answer[-1] == EOS for answer in answers)
        shown += [tuple(answer[:-1]) for answer in answers]
    expected = {tuple(answer_ids(tokenizer, t)) for texts in captioned.captions for t in texts}
    assert len(shown) == len(expected) == 36
    assert set(shown) == expected
    assert found[0][1] == {"nll": 1.5}


def test_steps_depend_on_the_seed_and_their_number_alone(curriculum, captioned, made):
    config, tokenizer = made
    near = np.array([[j for j in range(12) if j != i] for i in range(12)])
    for stage in (lambda c: c.captioning(4), lambda c: c.discriminative(2, 3, near)):
        seen, _ = run(stage(curriculum), 5)
        again, _ = run(stage(Curriculum(captioned, tokenizer, config, seed=4)), 5)
        assert same(seen, again)
        # Skipping steps, as resuming does, leads to the same ones.
        later, _ = run(itertools.islice(stage(curriculum), 3, None), 2)
        assert same(seen[3:], later)
        other, _ = run(stage(Curriculum(captioned, tokenizer, config, seed=5)), 5)
        assert not same(seen, other)


def test_groups_are_scored_picture_by_query(curriculum, captioned, made):
    _, tokenizer = made
    near = np.array([[(i + 1) % 12, (i + 2) % 12] for i in range(12)])
    seen, found = run(curriculum.discriminative(2, 3, near), 4)
    owner = {
        tuple(answer_ids(tokenizer, text)): row
        for row, texts in enumerate(captioned.captions)
        for text in texts
    }
    plain = torch.from_numpy(captioned.features)
    for batch, features in seen:
        assert (batch.answers, features.shape[0]) == (18, 6)
        answers = [batch.target[batch.answer == n].tolist()[:-1] for n in range(18)]
        asked = [[owner[tuple(a)] for a in answers[r * 3 : r * 3 + 3]] for r in range(6)]
        for group in (asked[:3], asked[3:]):
            assert group[0] == group[1] == group[2]
            anchor, *others = group[0]
            assert set(others) == {(anchor + 1) % 12, (anchor + 2) % 12}
        rows = [*asked[0], *asked[3]]
        mirrored = plain[rows].view(6, 2, 2, -1).flip(2).flatten(1, 2)
        for own, straight, flipped in zip(features, plain[rows], mirrored, strict=True):
            assert torch.equal(own, straight) or torch.equal(own, flipped)
    assert set(found[0][1]) == {"nll", "accuracy"}


def test_a_further_loss_is_added_to_the_groups(curriculum):
    near = np.array([[(i + 1) % 12] for i in range(12)])

    def further(learner, rng):
        return torch.tensor(7.0), {"find": 7.0}

    (_, [(plain, _)]) = run(curriculum.discriminative(1, 2, near), 1)
    (_, [(more, metrics)]) = run(curriculum.discriminative(1, 2, near, further), 1)
    assert float((more - plain).detach()) == pytest.approx(7.0)
    assert metrics["find"] == 7.0


IDENTIFIERS = [[f"thing {i}, place {n}" for n in range(3)] for i in range(12)]


def decoded(tokenizer, batch, config):
    """(prompt words, has picture, answers) of each row of a batch."""
    prompt_end = {}
    for row, place in zip(batch.row.tolist(), batch.place.tolist(), strict=True):
        prompt_end[row] = min(prompt_end.get(row, place), place)
    out = []
    for row, end in sorted(prompt_end.items()):
        ids = batch.input_ids[row, 1:end].tolist()
        words = tokenizer.decode([i for i in ids if i != config.image_token_id])
        numbers = sorted({int(a) for a, r in zip(batch.answer, batch.row, strict=True) if r == row})
        answers = [tokenizer.decode(batch.target[batch.answer == n].tolist()[:-1]) for n in numbers]
        out.append((words, config.image_token_id in ids, answers))
    return out


def test_rows_of_identifier_examples(captioned, made):
    config, tokenizer = made
    examples = IdentifierExamples(
        captioned, IDENTIFIERS, tokenizer, config, finds=9, looks=3, paraphrases=4, nulls=2
    )
    recorder = Recorder()
    loss, metrics = examples(recorder, random.Random(1))
    assert (float(loss.detach()), metrics) == (1.5, {"find": 1.5})
    [(batch, features)] = recorder.seen
    rows = decoded(tokenizer, batch, config)
    assert len(rows) == 9 + 3 + 4 + 2 * 2
    assert features.shape[0] == 3
    # Rows with a picture come first, as their features do.
    assert [seen for _, seen, _ in rows] == [True] * 3 + [False] * 17
    assert [words for words, _, _ in rows[:3]] == ["Find."] * 3
    flat = {
        text: (i, n) for i, some in enumerate(captioned.captions) for n, text in enumerate(some)
    }
    flat |= {normalise(text): place for text, place in list(flat.items())}
    for words, _, answers in rows[3:12]:
        picture, place = flat[words.removeprefix("Find: ")]
        allowed = [f" thing {picture}, place {n}" for n in range(3) if n != place]
        assert sorted(answers) == sorted(allowed)  # never the asked caption's own
    for words, _, [answer] in rows[12:16]:
        picture, _ = flat[words.removeprefix("Describe: ")]
        assert answer.strip() in [normalise(text) for text in captioned.captions[picture]]
    assert [words for words, _, _ in rows[16:]] == ["Find: ", "Describe."] * 2
    for _, _, answers in rows[16::2]:
        assert all(a.strip() in {t for some in IDENTIFIERS for t in some} for a in answers)


def test_pictures_of_looks_are_those_of_their_features(captioned, made):
    config, tokenizer = made
    examples = IdentifierExamples(
        captioned, IDENTIFIERS, tokenizer, config, finds=0, looks=5, paraphrases=0, nulls=0
    )
    recorder = Recorder()
    examples(recorder, random.Random(2))
    [(batch, features)] = recorder.seen
    for (_, _, answers), feature in zip(decoded(tokenizer, batch, config), features, strict=True):
        picture = int(answers[0].split(",")[0].removeprefix(" thing "))
        assert torch.equal(feature, torch.from_numpy(captioned.features[picture]))


def test_few_identifiers_are_enough(captioned, made):
    config, tokenizer = made
    single = [[f"thing {i}"] for i in range(12)]
    examples = IdentifierExamples(captioned, single, tokenizer, config)
    recorder = Recorder()
    examples(recorder, random.Random(3))
    for words, _, answers in decoded(tokenizer, recorder.seen[0][0], config):
        if words.startswith("Find"):
            assert len(answers) == 1


def test_words_of_a_user_are_plain_in_training_too(captioned, made):
    config, tokenizer = made
    examples = IdentifierExamples(captioned, IDENTIFIERS, tokenizer, config)
    assert examples._prompt("Find: <image>")[1:-1] == plain_ids(tokenizer, "Find: <image>")


def test_nearest_pictures_are_the_nearest_and_never_oneself():
    torch.manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(20, 8), dim=-1)
    vectors[7] = vectors[3]  # the same picture twice
    vectors[11] = vectors[3]
    found = nearest_pictures(vectors, count=5)
    assert found.shape == (20, 5)
    for row in range(20):
        others = [j for j in range(20) if j != row]
        expected = sorted((float(vectors[row] @ vectors[j]) for j in others), reverse=True)[:5]
        assert row not in found[row].tolist()
        near = [float(vectors[row] @ vectors[j]) for j in found[row].tolist()]
        assert near == pytest.approx(expected, abs=1e-6)
    skipped = nearest_pictures(vectors, count=4, skip=1)
    assert torch.equal(skipped[0], found[0, 1:])


def test_nearest_pictures_by_blocks(monkeypatch):
    from genmm_retriever.training.builtin import examples

    torch.manual_seed(1)
    vectors = torch.nn.functional.normalize(torch.randn(11, 6), dim=-1)
    whole = nearest_pictures(vectors, count=3)
    monkeypatch.setattr(examples, "_ROWS_AT_ONCE", 4)
    assert torch.equal(nearest_pictures(vectors, count=3), whole)
    assert nearest_pictures(vectors[:2], count=5).tolist() == [[1], [0]]
