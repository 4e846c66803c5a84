"""Verbose queries: a human caption, unchanged, inside the words of somebody who writes at length.

The rule. An opening, a reason, the caption and a closing are put together by chance. None of the
words around the caption is in the lexicon of what photos show, but for the "looking" of "looking
for"; a test holds the templates to that.

The checks. A caption must have at least `SHORTEST` words, no quotation marks, and no word that asks
("looking for", "photo", "picture"), because it would be of one piece with the request around it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from benchmarks.corpora.photos import Made, Photo, words_of

SHORTEST = 4
OPENINGS = (
    "Hello, I hope you can help me.",
    "Hi there, sorry to bother you with this.",
    "Good morning, and thank you in advance for your time.",
    "Excuse me, this may be a strange request.",
    "Hey, quick question, although it is probably not that quick.",
    "Dear all, I was told that this is the right place to ask.",
    "I am not sure whether I am doing this right, but here it goes.",
    "So, I have been at this for ages and I am about to give up.",
    "Could you please do me a favour?",
    "",
)
REASONS = (
    "It was mentioned to me last week and I cannot stop thinking about it.",
    "I saw it once, months ago, on somebody's account that has since been deleted.",
    "It is meant for a presentation that is due tomorrow and I have nothing so far.",
    "We argued about it all weekend and I would really like to settle it.",
    "I used to have a copy of it but I lost it, along with everything else.",
    "I was asked for it at work and I said yes without thinking.",
    "I do not remember where it came from, nor when I came across it.",
    "I have tried all sorts of words already and nothing useful came up.",
    "It would mean a lot to me, for reasons that would be too long to explain.",
    "We are all meant to bring one and mine has to be exactly this.",
    "",
)
REQUESTS = (
    "I am looking for the one that, if I remember well, goes like this: {caption}",
    "What I need, more or less, is this: {caption}",
    "If it is not too much to ask, could you find me this one: {caption}",
    "I think it could be described as follows, though I may be wrong: {caption}",
    "I would like to get the one about which somebody wrote: {caption}",
    "As far as I can recall, what it had was: {caption}",
    "Would you be so kind as to search for the following: {caption}",
    "Is there anything in your collection that matches this, please: {caption}",
    "To put it in my own words, and I hope that they make sense: {caption}",
    "Basically, well, how do I say this, it should be: {caption}",
)
CLOSINGS = (
    "Thanks a lot, whatever you find.",
    "Any help would be very much appreciated.",
    "I am sorry that I cannot be more precise than that.",
    "Take your time, there is no hurry at all.",
    "If there is more than one, the best match would be enough.",
    "Please let me know, even if it does not work out.",
    "That is really all that I know, honestly.",
    "Cheers, and have a nice day!",
    "I hope that this makes some sense to you.",
    "",
)
_ASKS = frozenset(
    ["photo", "photograph", "picture", "image", "photos", "pictures", "looking", "please", "find"]
)


def verbose_queries(
    photos: Sequence[Photo], *, number: int | None = 250, seed: int = 0, per_photo: int = 1
) -> Made:
    """Verbose queries over photos.

    Args:
        photos: With captions by people.
        number: Queries wanted; None for all that the rule gives.
        seed: Of the captions and of the words around them.
        per_photo: Queries a photo at most.

    Returns:
        Query lines; the captions alone are the twins. `dropped` counts captions.
    """
    made, draw = Made(), random.Random(seed)
    for photo in draw.sample(list(photos), len(photos)):
        taken = 0
        for n in draw.sample(range(len(photo.captions)), len(photo.captions)):
            caption = photo.captions[n]
            if number is not None and len(made.records) == number:
                made.dropped["more than were asked for"] += 1
            elif taken == per_photo:
                made.dropped["the photo was asked for often enough"] += 1
            elif (why := unfit(caption)) is not None:
                made.dropped[why] += 1
            else:
                taken += 1
                line = {"id": f"{photo.id}#{n}", "text": caption, "relevant": [photo.id]}
                made.twins.append(line)
                made.records.append({**line, "text": wrapped(caption, draw)})
    return made


def wrapped(caption: str, draw: random.Random) -> str:
    """A caption inside a wordy request.

    Examples:
        >>> text = wrapped("a dog on a sofa", random.Random(5))
        >>> "a dog on a sofa" in text, len(text) > 60
        (True, True)
    """
    request = draw.choice(REQUESTS).format(caption=caption)
    opening, reason, closing = map(draw.choice, (OPENINGS, REASONS, CLOSINGS))
    if not opening and not reason:
        opening = OPENINGS[0]
    if closing and not request.endswith((".", "!", "?")):
        request += "."
    return " ".join(part for part in (opening, reason, request, closing) if part)


def unfit(caption: str) -> str | None:
    """Why a caption cannot be wrapped, or None."""
    words = words_of(caption)
    if len(words) < SHORTEST:
        return "the caption is too short"
    if '"' in caption or ":" in caption:
        return "the caption quotes"
    if _ASKS & {*words}:
        return "the caption itself may ask"
    return None
