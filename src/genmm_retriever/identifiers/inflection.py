"""Which words are forms of one another, and which must never be taken for the same.

Blunt rules without a dictionary; where they may err, sentence vectors have the last word
(`identifiers.synonyms`).
"""

from __future__ import annotations

from functools import lru_cache

_IRREGULAR = """
man men|woman women|child children|kid kids|person persons people|foot feet|tooth teeth|goose geese
mouse mice|ox oxen|wolf wolves|leaf leaves|knife knives|shelf shelves|calf calves|half halves
run ran|sit sat|swim swam swum|stand stood|ride rode ridden|hold held|throw threw thrown
catch caught|fly flew flown|eat ate eaten|drive drove driven|wear wore worn|fall fell fallen
write wrote written|take took taken|sing sang sung|drink drank drunk|sleep slept|hang hung
make made|give gave given|swing swung|build built|climb climbed|shake shook shaken
fight fought|bite bit bitten|hide hid hidden|blow blew blown|draw drew drawn|dive dove
girl girls|boy boys|guy guys|male males|female females|friend friends|rider riders|racer racers
worker workers|bikini bikinis|ski skis|direction directions
"""
_SPELLINGS = """
gray grey|color colour|tv television|photo photograph|airplane aeroplane plane|blond blonde
center centre|theater theatre|tire tyre|pajamas pyjamas|donut doughnut|harbor harbour
traveling travelling|jewelry jewellery|mustache moustache|t-shirt tshirt tee-shirt
mom mum|neighbor neighbour|favorite favourite|plow plough|fiber fibre|meter metre|aluminum aluminium
racket racquet|yogurt yoghurt|catalog catalogue|mold mould|bbq barbecue|rv motorhome
"""
# Words of one row that stand in different groups are told apart: sexes, ages, sizes, colours.
_APART = """
man boy guy gentleman male father dad daddy husband brother son uncle nephew king prince groom
 actor waiter grandfather grandpa he him his|woman girl lady female mother mom mum wife sister
 daughter aunt niece queen princess bride actress waitress grandmother grandma she her
adult man woman parent|child kid boy girl baby toddler infant teenager teen
one single|two pair couple|three|four|five|six|seven|eight|nine|ten|eleven|twelve|dozen|twenty
 |thirty|forty|fifty|hundred|thousand|million|first|second|third|fourth|fifth|last|half|both
red|orange|yellow|green|blue|purple violet|pink|brown|black|white|gray grey|tan beige|gold golden
 |silver|maroon|turquoise|crimson
left|right|middle center centre
north northern|south southern|east eastern|west western
up upper upward above over top|down lower downward below under beneath bottom
in inside inner indoor indoors into|out outside outer outdoor outdoors
front forward forwards|back backward backwards rear behind
big large huge giant tall great bigger larger taller|small little tiny short smaller shorter
long longer|short shorter|wide wider broad|narrow thin|thick thicker|thin thinner skinny slim
old older elderly aged ancient|young younger new newer youthful modern
hot warm warmer hotter|cold cool cooler colder icy|dry|wet damp soaked
happy glad cheerful smiling|sad angry crying upset unhappy|open|closed shut|empty|full
light bright|dark dim|fast quick faster|slow slower|high higher tall|low lower
hard harder difficult|soft softer easy easier|heavy heavier|light lighter|good better best
 |bad worse worst|clean|dirty muddy|day daytime morning noon afternoon|night nighttime evening dusk
spring|summer|autumn fall|winter|transparent clear|opaque|loud|quiet silent|rough|smooth
monday|tuesday|wednesday|thursday|friday|saturday|sunday
january|february|march|april|may|june|july|august|september|october|november|december
dog puppy canine|cat kitten feline|horse pony|cow bull cattle|sheep lamb|goat|pig|wolf|fox|bear
 |lion|tiger|bird|fish|duck|chicken|rabbit
wetsuit|swimsuit bikini|jacket coat|shirt t-shirt|pants trousers jeans|shorts|skirt|dress
hat|cap|helmet|shoe|sneaker|boot|sandal|glasses|sunglasses
soccer|football|baseball|basketball|tennis|volleyball|rugby|hockey|cricket|golf|lacrosse
car automobile|truck|bus|van|train|bike bicycle|motorcycle motorbike|boat|ship|plane airplane
snowboard|skateboard|surfboard|wakeboard|ski|skate|sled|wood|metal|plastic|stone|brick|concrete
lake|pond|river|ocean sea|mountain|hill|forest woods|field|beach|street road|sidewalk
sit seated|stand|lie|kneel|run jog sprint|walk|jump leap|climb|swim|throw|catch|kick
buy|sell|win|lose|enter|leave|push|pull|give|take
inhale|exhale|ascend|descend|start begin|stop end finish
"""


@lru_cache(maxsize=1)
def _lemmas() -> dict[str, frozenset[str]]:
    """Words of the irregular and the spelling table, by word: the first of their rows."""
    found: dict[str, set[str]] = {}
    for table in (_IRREGULAR, _SPELLINGS):
        for row in table.replace("\n", "|").split("|"):
            for word in row.split():
                found.setdefault(word, set()).add(row.split()[0])
    return {word: frozenset(rows) for word, rows in found.items()}


@lru_cache(maxsize=1)
def _groups() -> dict[str, list[tuple[int, int]]]:
    """Row and group of each word that is told apart from others."""
    found: dict[str, list[tuple[int, int]]] = {}
    for number, row in enumerate(_APART.replace("\n ", " ").strip().splitlines()):
        for place, group in enumerate(row.split("|")):
            for word in group.split():
                found.setdefault(word, []).append((number, place))
    return found


def same_by_table(word: str, other: str) -> bool:
    """Whether both are one word in a table of irregular forms or of spellings.

    Examples:
        >>> same_by_table("men", "man"), same_by_table("men", "women")
        (True, False)
    """
    known = _lemmas()
    return bool(known.get(word, frozenset()) & known.get(other, frozenset()))


def base_forms(word: str) -> frozenset[str]:
    """What a word may be a plural or a form in -ing or -ed of, itself included.

    Examples:
        >>> sorted(base_forms("riding")), sorted(base_forms("puppies")), sorted(base_forms("bus"))
        (['rid', 'ride', 'riding'], ['puppie', 'puppies', 'puppy'], ['bus'])
    """
    found = {word}
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        found.add(word[:-1])
        if word.endswith("ies") and len(word) > 4:
            found.add(word[:-3] + "y")
        if word.endswith(("ches", "shes", "xes", "sses", "zes", "oes")):
            found.add(word[:-2])
    for ending in ("ing", "ed"):
        stem = word.removesuffix(ending)
        if stem != word and len(stem) > 2 and any(letter in "aeiouy" for letter in stem):
            found |= {stem, stem + "e"}
            if stem[-1] == stem[-2] and stem[-1] not in "lsz":
                found.add(stem[:-1])
            if stem.endswith("i"):
                found.add(stem[:-1] + "y")
    return frozenset(found)


def all_bases(word: str) -> frozenset[str]:
    """`base_forms`, and what the tables of irregular forms and of spellings say they come from.

    Examples:
        >>> sorted(all_bases("women"))
        ['woman', 'women']
    """
    forms = base_forms(word)
    return forms | {base for form in forms for base in _lemmas().get(form, ())}


def are_forms(*some: str) -> bool:
    """Whether words may all be forms of one.

    Examples:
        >>> are_forms("runs", "running", "ran"), are_forms("corn", "corner")
        (True, False)
        >>> are_forms("leaf", "leaves"), are_forms("leaf", "leaves", "leave")
        (True, False)
    """
    shared = frozenset.intersection(*map(all_bases, some))
    return any(len(form) > 2 for form in shared)


def are_apart(word: str, other: str) -> bool:
    """Whether two words name opposites, or kinds of one thing; their forms count as themselves.

    Numbers, and compounds that differ in a part ("short-haired" and "long-haired"), are apart,
    and so are words that differ in what stands before a long common end.

    Examples:
        >>> are_apart("women", "man"), are_apart("mother", "mom")
        (True, False)
        >>> are_apart("overcoat", "undercoat"), are_apart("short-haired", "long-haired")
        (True, True)
    """
    if word == other:
        return False
    if any(letter.isdigit() for letter in word + other):
        return True
    if are_forms(word, other):
        return False
    if "-" in word + other and set(word.split("-")) & set(other.split("-")):
        return True
    shared = _common(word[::-1], other[::-1])
    if shared >= 4:
        return True
    ours, theirs = _places(word), _places(other)
    return any(
        row == other_row and (row, group) not in theirs
        for row, group in ours
        for other_row, _ in theirs
    )


def share_beginning(word: str, other: str) -> bool:
    """Whether two words begin alike: then they are derived, and seldom mean the same."""
    shared = _common(word, other)
    return shared >= 4 or (shared == 3 and min(len(word), len(other)) <= 6)


def _common(word: str, other: str) -> int:
    count = 0
    for letter, theirs in zip(word, other, strict=False):
        if letter != theirs:
            break
        count += 1
    return count


def _places(word: str) -> set[tuple[int, int]]:
    known = _groups()
    return {place for form in all_bases(word) for place in known.get(form, ())}
