"""Words by which letters are recognised: who writes, how one greets, asks, refuses and closes."""

from __future__ import annotations

import re

PERSONAL = frozenset(
    "i i'm im i've ive i'd i'll me my mine we we're we'd we've us our you u your".split()  # noqa: SIM905
)
"""Words of whoever asks, and of whoever is asked."""
HAILING = frozenset("hello hi hey dear".split())  # noqa: SIM905
GREETS = HAILING | frozenset("please pls thanks thank thx sorry kindly regards".split())  # noqa: SIM905
REQUESTS = frozenset(
    "please pls could would can find search searching look looking need want show help tell "  # noqa: SIM905
    "know give send".split()
)
OBJECTS = frozenset("me us mine".split())  # noqa: SIM905
"""For whom something is asked: the words of asking may end with them."""
UNNAMED = frozenset("it this that them these those i we you i'm im we're i've we've".split())  # noqa: SIM905
"""A request that goes on so names nothing, or tells."""
FETCHING = frozenset("send give get bring".split())  # noqa: SIM905
"""Before an object they ask; elsewhere somebody brings something."""
LONGING = frozenset("would i'd we'd".split())  # noqa: SIM905
TIMES = frozenset("day days week weeks month months year years hour hours ages".split())  # noqa: SIM905
SHOTS = frozenset("picture photo photograph image".split())  # noqa: SIM905


def _anycase(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


_WARMLY = r"(?:many |warm |kind |best |with )*"
_WISHES = r"regards|wishes(?=$|,| (?:from|to)\b)|sincerely|best,|"

GREETING = _anycase(
    r"\s*(?:(?:hi|hello|hey|dear|good (?:morning|afternoon|evening|day))\b"
    r"(?:[^\S\n]+[^\s,!?:;]+){0,4}[,!]\s*|(?:hi|hello|hey) (?:there|all|team|guys|everyone)\s+)+"
)
"""At the beginning of a letter."""
PREFACE = _anycase(
    r"(?:excuse me|sorry|thanks|thank you)\b[^,;:]{0,60}?(?:, ?(?:but )?| but )"
    r"(?=(?:now )?(?:i|we|is|are|do|does|can|could|would|will|have|any|please|who|what|where|when|"
    r"how)\b)"
)
"""Courtesy before a sentence that goes on."""
COURTESY = _anycase(
    rf"{_WARMLY}(?:{_WISHES}"
    r"thanks|thank you(?=$|[,!]| (?:for|so|very|a lot|again|in|to)\b)|thx|cheers|"
    r"greetings(?=$|,| from\b)|yours (?:truly|faithfully|sincerely)|all the best|best$|"
    r"have an? (?:nice|good|great|lovely)|(?:i am |i'm |we )?look(?:ing)? forward to (?:hear|your)|"
    r"take care$|please let (?:me|us) know|sorry (?:for|to)|excuse me|"
    r"(?:just )?(?:one |a )?quick question|"
    r"(?:is|was) (?:that|this|it) (?:right|possible|correct|true|ok|okay)$|"
    r"(?:yours|love|bye|ta|hiya)(?:,? \w+){0,2}$)"
)
"""At the beginning of a clause that says nothing else."""
CLOSING = _anycase(rf"{_WARMLY}(?:{_WISHES}yours\b|love\b)")
"""Courtesy that a name follows, and whatever stands below it."""
ENDING = _anycase(r"[,\s]+(?:please|pls|thanks|thank you|thx)$")
MAIL_LINE = _anycase(r"\s*(?:(?:from|to|cc|subject|date|sent): .*|on .{5,80} wrote:|-{3,}.*)$")
"""Of a forwarded message, or above a quoted one."""
SIGNATURE = re.compile(r"-- ?$")
"""The line above a signature."""
QUOTED = re.compile(r"(?:> ?)+")
SHOWING = _anycase(
    r".*\b(?:photo|photograph|picture|pic|image|shot|snapshot)s?\s+"
    r"(?:of|with|showing|where|in which)\s+"
)
NEGATED = _anycase(r"\b(?:no|not|without|never|neither|nor|except|only|cannot|\w+n['\u2019]t)\b")
REVERSING = _anycase(r"\b(?:no|not|never|except|\w+n['\u2019]t)\b|\b(?:any|every)\w*\W*$")
"""What is not cut away before something, or turns its sense."""
REFUSED = _anycase(
    r"\b(?:do not|don['\u2019]?t|not|no longer)\s+(?:want|need|look|like)|"
    r"\b(?:can['\u2019]?t|cannot|can not|couldn['\u2019]?t)\s+(?:use|accept|take|have)|"
    r"\b(?:any|every)\w*\s+(?:but|except|other than)\b"
)
CONDITION = _anycase(
    r"(?:if possible|or|otherwise|unless|ideally|preferably|alternatively|failing (?:that|this))\b"
)
PLACED = _anycase(r"\b(?:nobody|nothing|none|behind|above|below|inside|outside)\b")
"""Words that count for little elsewhere, and may be all that a condition says."""
WONDERING = _anycase(r"\b(?:who|how|why|whether)\b")
POINTING_ON = _anycase(r"\b(?:as follows|the following|like this)$")
JOINING = _anycase(
    r"(?:(?:and|but|or|of|with|about|from|for|that|in which|on which|"
    r"showing|there is|there are)\s+)+"
)
PARTS = _anycase(r",\s+|\s+(?=(?:that|which|where)\s+(?:I|we|you)\b)")
