from __future__ import annotations

import random

import pytest
import torch

from genmm_retriever.describing import Describer
from genmm_retriever.errors import InputError
from genmm_retriever.models.base import Generator, ImagePart

NOUNS = ["dog", "cat", "boat", "tree", "car", "hat", "horse", "street", "child", "guitar"]


class Painter:
    """Says the number in a picture's features; samples by seed and picture, as models must."""

    name = "painter"
    prompt_style = "builtin"

    def __init__(self, nouns=tuple(NOUNS)):
        self.nouns = nouns
        self.calls = []

    def generate(
        self, prompts, *, max_new_tokens=64, num_return_sequences=1, temperature=0.0, seed=0
    ):
        self.calls.append((len(prompts), num_return_sequences, temperature, seed))
        out = []
        for prompt in prompts:
            number = int(prompt.parts[0].features)
            dice = random.Random(f"{number} {seed} {temperature}")
            draw = dice.choice if temperature else lambda nouns: nouns[0]
            out.append(
                [
                    f"Picture {number} \n of a {draw(self.nouns)}."
                    for _ in range(num_return_sequences)
                ]
            )
        return out


def pictures(*numbers):
    return [ImagePart(features=torch.tensor(number)) for number in numbers]


def test_the_first_caption_is_the_likeliest_and_the_others_differ():
    model = Painter()
    assert isinstance(model, Generator)
    found = Describer(model, per_item=3).describe(pictures(7, 8))
    assert [some[0] for some in found] == ["Picture 7 of a dog.", "Picture 8 of a dog."]
    for some in found:
        assert len(some) == len(set(some)) == 3
    assert model.calls[0] == (2, 1, 0.0, 0)


def test_does_not_depend_on_batches():
    whole = Describer(Painter()).describe(pictures(*range(12)))
    describer = Describer(Painter())
    parts = describer.describe(pictures(*range(5))) + describer.describe(pictures(*range(5, 12)))
    assert parts == whole
    assert Describer(Painter()).describe(pictures(11)) == [whole[11]]
    assert Describer(Painter(), seed=1).describe(pictures(*range(12))) != whole


def test_one_caption_needs_no_sampling():
    model = Painter()
    assert Describer(model, per_item=1, beams=4).describe(pictures(1)) == [["Picture 1 of a dog."]]
    assert model.calls == [(1, 4, 0.0, 0)]


def test_a_model_of_few_words_gives_fewer_captions():
    model = Painter(nouns=("dog", "Dog!"))
    found = Describer(model, per_item=3).describe(pictures(1, 2))
    assert found == [["Picture 1 of a dog."], ["Picture 2 of a dog."]]
    assert len(model.calls) == 3  # greedy, samples, one more round and no endless trying


def test_unusable_answers_leave_no_caption():
    class Silent(Painter):
        def generate(self, prompts, *, num_return_sequences=1, **options):
            return [["\x00 \n"] * num_return_sequences for _ in prompts]

    assert Describer(Silent()).describe(pictures(1)) == [[]]


def test_no_pictures_no_call():
    model = Painter()
    assert Describer(model).describe([]) == []
    assert model.calls == []


@pytest.mark.parametrize(
    "options", [{"per_item": 0}, {"max_new_tokens": 0}, {"temperature": 0.0}, {"beams": 0}]
)
def test_refuses_numbers_out_of_range(options):
    with pytest.raises(InputError, match="a Describer needs"):
        Describer(Painter(), **options)
