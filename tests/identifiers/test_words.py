"""Where words begin, for tokens that are single bytes: the pieces of most scripts' characters."""

from __future__ import annotations

import pytest

from genmm_retriever.identifiers.words import WordEdges


class Bytes:
    """A tokenizer that knows no character but its bytes, as small ones treat most scripts."""

    def encode(self, text):
        return list(text.encode())

    def decode(self, tokens):
        return bytes(tokens).decode(errors="replace")


@pytest.mark.parametrize(
    ("text", "begins"),
    [
        # Written without blanks: every character may begin a word, no later byte does.
        ("桜は", "|..|.."),
        ("ไท", "|..|.."),
        ("אב", "|.|."),
        # Written with blanks, in two bytes a letter.
        (" жé", "|...."),
        # Cuneiform takes four.
        ("𒀀a", "|...."),
        ("a 桜-桜", ".||..||.."),
    ],
)
def test_a_character_in_pieces_begins_with_its_first(text, begins):
    joined = WordEdges(Bytes(), 256).joined(Bytes().encode(text))
    assert "".join(".|"[not one] for one in joined) == begins


def test_bytes_that_are_of_no_character_begin_nothing():
    assert WordEdges(Bytes(), 256).joined([0xFF, 0x80, 0xBF, 0xC0]).all()
