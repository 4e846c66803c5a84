from __future__ import annotations

import pytest

from genmm_retriever.errors import InputError
from genmm_retriever.identifiers import HashingEncoder, MiniLMEncoder, StructuredIdentifiers

ENCODER = HashingEncoder()


def one_cluster(captions, **options):
    items = [[caption] for caption in captions]
    scheme = StructuredIdentifiers.fit(items, ENCODER, clusters=1, **options)
    return scheme, [some[0] for some in scheme.assign(items, taken=set())]


def test_words_of_the_cluster_leave_the_lexical_part():
    scheme, found = one_cluster(
        ["a brown dog in snow", "two dogs in deep snow", "a dog jumping over snow"]
    )
    assert scheme.names == ["dog snow"] or scheme.names == ["snow dog"]
    for text in found:
        lexical = text.split(", ")[1:]
        assert lexical
        assert not {"dog", "dogs", "snow"} & {word for part in lexical for word in part.split()}


def test_lexical_length_is_kept_when_nothing_collides():
    caption = (
        "old men, white beards, green guitars, tall trees, wet streets, loud music, yellow taxis"
    )
    for length in (1, 3, 4):
        _, (found,) = one_cluster([caption], lexical_length=length)
        assert len(found.split(", ")) == 1 + length


def test_collisions_add_keywords_and_then_numbers():
    caption = (
        "old men, white beards, green guitars, tall trees, wet streets, loud music, yellow taxis"
    )
    _, found = one_cluster([caption] * 5)
    lengths = [len(text.split(", ")) for text in found]
    assert lengths == [5, 6, 7, 8, 8]
    assert all(longer.startswith(found[0] + ", ") for longer in found[1:])
    assert found[3] == found[2] + ", 2"
    assert found[4] == found[2] + ", 3"


def test_several_descriptions_several_identifiers_without_repetition():
    items = [["a brown dog runs", "snow on high mountains", "a brown dog runs"]]
    (found,) = StructuredIdentifiers.fit(items, ENCODER).assign(items, taken=set())
    assert len(found) == 2
    assert "brown" in found[0]
    assert "mountains" in found[1]


def test_a_freed_identifier_can_be_given_again():
    scheme, found = one_cluster(["a red boat", "a red boat"])
    taken = set(found)
    taken.remove(found[0])
    assert scheme.assign([["a red boat"]], taken=taken) == [[found[0]]]


def test_new_items_join_old_clusters_without_refit():
    encoder = MiniLMEncoder()
    dogs = [[f"a {colour} dog runs in the park"] for colour in ("brown", "black", "white", "grey")]
    boats = [[f"a {colour} boat sails on the sea"] for colour in ("brown", "red", "blue", "white")]
    scheme = StructuredIdentifiers.fit(dogs + boats, encoder, clusters=2)
    taken: set[str] = set()
    old = scheme.assign(dogs + boats, taken=taken)
    (puppy,), (yacht,) = scheme.assign([["a puppy plays"], ["a large yacht"]], taken=taken)
    assert puppy.split(", ")[0] == old[0][0].split(", ")[0]
    assert yacht.split(", ")[0] == old[-1][0].split(", ")[0]
    assert "puppy" in puppy
    assert "yacht" in yacht


@pytest.mark.parametrize("options", [{"lexical_length": 0}, {"clusters": 0}])
def test_refuses_numbers_below_one(options):
    with pytest.raises(InputError, match="at least 1"):
        StructuredIdentifiers.fit([["a dog"]], ENCODER, **options)
