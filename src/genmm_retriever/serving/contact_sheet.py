"""A picture of results: one row a question, its best hits with their evidence beside it."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont, ImageOps

from ..corpus.images import open_image
from ..schema import Hit, Query
from .console import printable
from .scores import shown_score

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont

_PAPER = (246, 246, 243)
_CARD = (255, 255, 255)
_EDGE = (222, 222, 216)
_INK = (28, 30, 33)
_SOFT = (106, 110, 116)
_ACCENT = (18, 104, 92)
_BAR = (226, 232, 230)

_MARGIN = 28
_GAP = 16
_CARD_WIDTH = 252
_PICTURE_HEIGHT = 152
_PAD = 12
_ASK_WIDTH = 264
_ROW_HEIGHT = 328
_TITLE_HEIGHT = 64


def draw(rows: Sequence[tuple[str, Query, Sequence[Hit]]]) -> Image.Image:
    """Draw a contact sheet.

    Args:
        rows: For each question its label, the query and its hits, best first.

    Returns:
        An RGB picture.
    """
    columns = max((len(hits) for _, _, hits in rows), default=0)
    width = 2 * _MARGIN + _ASK_WIDTH + columns * (_CARD_WIDTH + _GAP)
    height = _TITLE_HEIGHT + len(rows) * (_ROW_HEIGHT + _GAP) + _MARGIN
    sheet = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((_MARGIN, 22), "genmm demo", font=_font(24), fill=_INK)
    note = "the model writes an identifier for what is asked; then it checks what was found"
    pen.text((_MARGIN + 172, 30), note, font=_font(15), fill=_SOFT)
    top = _TITLE_HEIGHT
    for label, query, hits in rows:
        _draw_question(sheet, pen, (_MARGIN, top), label, query)
        for hit in hits:
            left = _MARGIN + _ASK_WIDTH + _GAP + (hit.rank - 1) * (_CARD_WIDTH + _GAP)
            _draw_hit(sheet, pen, (left, top), hit)
        top += _ROW_HEIGHT + _GAP
    return sheet


def _draw_question(
    sheet: Image.Image, pen: ImageDraw.ImageDraw, at: tuple[int, int], label: str, query: Query
) -> None:
    left, top = at
    pen.text((left, top + 10), "ASKED", font=_font(12), fill=_ACCENT)
    lines = _wrap(pen, printable(label), _font(23), _ASK_WIDTH - _GAP, 5)
    pen.multiline_text((left, top + 32), "\n".join(lines), font=_font(23), fill=_INK, spacing=7)
    if query.image is not None:
        below = top + 32 + 32 * len(lines) + 10
        box = (_ASK_WIDTH - _GAP, _PICTURE_HEIGHT)
        sheet.paste(ImageOps.contain(open_image(query.image), box), (left, below))


def _draw_hit(sheet: Image.Image, pen: ImageDraw.ImageDraw, at: tuple[int, int], hit: Hit) -> None:
    left, top = at
    inner = _CARD_WIDTH - 2 * _PAD
    first = hit.rank == 1
    pen.rounded_rectangle(
        (left, top, left + _CARD_WIDTH, top + _ROW_HEIGHT),
        radius=10,
        fill=_CARD,
        outline=_ACCENT if first else _EDGE,
        width=3 if first else 1,
    )
    if hit.item.image is not None:
        box = (inner, _PICTURE_HEIGHT)
        picture = ImageOps.fit(open_image(hit.item.image), box, Image.Resampling.LANCZOS)
        sheet.paste(picture, (left + _PAD, top + _PAD))
    x, y = left + _PAD, top + _PAD + _PICTURE_HEIGHT + 10
    share, beside = shown_score(hit)
    score = f"{share:.2f} {beside}".rstrip()
    room = inner - 20 - round(pen.textlength(score, font=_font(16)))
    name = _wrap(pen, printable(f"{hit.rank}. {hit.item.id}"), _font(16), room, 1)[0]
    pen.text((x, y), name, font=_font(16), fill=_INK)
    pen.text((x + inner, y), score, font=_font(16), fill=_ACCENT, anchor="ra")
    y += 24
    pen.rectangle((x, y, x + inner, y + 4), fill=_BAR)
    filled = round(inner * min(1.0, max(0.0, share)))
    if filled:
        pen.rectangle((x, y, x + filled, y + 4), fill=_ACCENT)
    y += 12
    for colour, text, most in _evidence(hit):
        lines = _wrap(pen, printable(text), _font(14), inner, most)
        pen.multiline_text((x, y), "\n".join(lines), font=_font(14), fill=colour, spacing=4)
        y += 20 * len(lines) + 6


def _evidence(hit: Hit) -> list[tuple[tuple[int, int, int], str, int]]:
    """Colour, text and most lines of what is said under a hit."""
    said: list[tuple[tuple[int, int, int], str, int]] = []
    if hit.evidence.identifiers:
        found = hit.evidence.identifiers[0]
        said.append((_INK, f"{found.logprob:.1f}  {found.text}", 3))
    elif hit.evidence.filled:
        said.append((_SOFT, "no identifier led here", 1))
    if hit.evidence.caption:
        said.append((_SOFT, f"“{hit.evidence.caption}”", 2))
    elif hit.item.text:
        said.append((_SOFT, hit.item.text, 2))
    return said


@functools.cache
def _font(size: int) -> Font:
    return ImageFont.load_default(size)


def _wrap(pen: ImageDraw.ImageDraw, text: str, font: Font, width: int, most: int) -> list[str]:
    """Lines of `text` no wider than `width` pixels, at most `most`, the last one cut with dots."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if not lines[-1] or pen.textlength(longer, font=font) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    kept, cut = lines[:most], len(lines) > most
    for row, line in enumerate(kept):
        last = cut and row == most - 1
        while line and pen.textlength(line + ("…" if last else ""), font=font) > width:
            line, last = line[:-1], True
        kept[row] = line.rstrip() + ("…" if last else "")
    return kept
