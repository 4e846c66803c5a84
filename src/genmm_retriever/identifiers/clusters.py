"""The global part of an identifier: clusters of captions, and names for them in words."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from genmm_retriever.identifiers.keywords import content_words
from genmm_retriever.models.sentences import Vectors

Labels = NDArray[np.int64]

MOST_CLUSTERS = 128
_MOST_POINTS = 16_384
"""More points than this, 128 a cluster, move the centres no further; a sample is drawn."""
_NAME_WORDS = 2
_MOST_NAME_WORDS = 5


def cluster_count(items: int) -> int:
    """How many clusters a collection gets: min(128, max(1, items / 8)).

    Examples:
        >>> cluster_count(3), cluster_count(80), cluster_count(10_000)
        (1, 10, 128)
    """
    return min(MOST_CLUSTERS, max(1, items // 8))


def kmeans(vectors: Vectors, k: int, *, seed: int = 0) -> tuple[Vectors, Labels]:
    """K-Means that is the same on every run and leaves no cluster empty.

    Args:
        vectors: Points, [n, d], n >= 1.
        k: Clusters wanted; fewer come back if fewer points differ.
        seed: Of the initial centres.

    Returns:
        Centres [k, d] float32, and the cluster of every point [n].
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    k = min(k, _different(vectors, k))
    if k <= 1:
        return vectors.mean(axis=0, keepdims=True), np.zeros(len(vectors), dtype=np.int64)
    sample = vectors
    if len(vectors) > _MOST_POINTS:
        chosen = np.random.default_rng(seed).choice(len(vectors), _MOST_POINTS, replace=False)
        sample = vectors[np.sort(chosen)]
    model = KMeans(k, n_init=1 if len(sample) > 4000 else 4, max_iter=50, random_state=seed)
    # Threads add up in the order in which they end, which moves the last bits of centres.
    with warnings.catch_warnings(), threadpool_limits(limits=1, user_api="openmp"):
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", message=".*memory leak.*", category=UserWarning)
        centres = model.fit(sample).cluster_centers_.astype(np.float32)
    labels = nearest(vectors, centres)
    used, labels = np.unique(labels, return_inverse=True)
    return centres[used], labels.astype(np.int64)


def _different(vectors: Vectors, enough: int) -> int:
    """How many points differ, counted no further than `enough`."""
    seen: set[bytes] = set()
    for vector in vectors:
        if len(seen) >= enough:
            break
        seen.add(vector.round(4).tobytes())
    return len(seen)


def nearest(vectors: Vectors, centres: Vectors) -> Labels:
    """The centre nearest to each point by Euclidean distance, [n]."""
    offsets = (centres**2).sum(axis=1) / 2
    labels: Labels = (vectors @ centres.T - offsets).argmax(axis=1).astype(np.int64)
    return labels


def class_tf_idf(counts: Sequence[Counter[str]]) -> list[dict[str, float]]:
    """How much each word speaks for each cluster: |tf(x, c)| * log(1 + A / f_x).

    |tf| is the word's share of the cluster's words, f_x its count over all clusters, and A
    the mean number of words a cluster. Also used by SemCORE, arXiv 2504.13172.

    Args:
        counts: The words of each cluster.

    Returns:
        One weight a word and cluster; zero weights are left out.

    References:
        Grootendorst, "BERTopic", arXiv 2203.05794, section 3.3.

    Examples:
        >>> weights = class_tf_idf([Counter(dog=3, snow=1), Counter(cat=2, dog=2)])
        >>> {word: round(weight, 3) for word, weight in weights[0].items()}
        {'dog': 0.441, 'snow': 0.402}
    """
    over_all: Counter[str] = Counter()
    for words in counts:
        over_all.update(words)
    mean = over_all.total() / max(1, len(counts))
    rarity = {word: float(np.log1p(mean / count)) for word, count in over_all.items()}
    return [
        {word: count / words.total() * rarity[word] for word, count in words.items()}
        for words in counts
    ]


def cluster_names(texts: Sequence[str], labels: Labels) -> list[str]:
    """A distinct name of a few words for each cluster.

    A name has the two words that speak most for the cluster, and further ones (at last a
    number) only if another cluster is called the same.

    Args:
        texts: n captions.
        labels: The cluster of each, [n]; every cluster from 0 has at least one.

    Returns:
        One name a cluster, lower case, words parted by blanks.
    """
    counts: list[Counter[str]] = [Counter() for _ in range(int(labels.max()) + 1)]
    for text, label in zip(texts, labels.tolist(), strict=True):
        counts[label].update(content_words(text))
    names: list[str] = []
    taken: set[str] = set()
    for weights in class_tf_idf(counts):
        # Ties in order of the alphabet, so that the order of the items plays no part.
        ranked = sorted(weights, key=lambda word: (-round(weights[word], 9), word))
        name = _free_name(_apart(ranked, _MOST_NAME_WORDS), taken)
        taken.add(name)
        names.append(name)
    return names


def _apart(ranked: Sequence[str], limit: int) -> list[str]:
    """The first words that are no forms of one another."""
    kept: dict[str, str] = {}
    for word in ranked:
        kept.setdefault(base_form(word), word)
        if len(kept) == limit:
            break
    return list(kept.values())


def _free_name(words: list[str], taken: set[str]) -> str:
    words = words or ["untitled"]
    for length in range(min(_NAME_WORDS, len(words)), len(words) + 1):
        name = " ".join(words[:length])
        if name not in taken:
            return name
    number = 2
    while (name := f"{' '.join(words[:_NAME_WORDS])} {number}") in taken:
        number += 1
    return name


def base_form(word: str) -> str:
    """Roughly the stem of an English word, to see that "jumping" says "jump" again.

    Only ever compared, never shown, and blunt on purpose: no dictionary is needed.

    Examples:
        >>> [base_form(word) for word in ("dogs", "ponies", "running", "skateboarder", "rides")]
        ['dog', 'pony', 'run', 'skateboard', 'rid']
        >>> base_form("grass"), base_form("bus"), base_form("ring")
        ('grass', 'bus', 'ring')
    """
    if len(word) > 4 and word.endswith("ies"):
        word = word[:-3] + "y"
    elif len(word) > 4 and word.endswith(("ches", "shes", "xes", "sses")):
        word = word[:-2]
    elif len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    for ending in ("ing", "ed", "er"):
        stem = word.removesuffix(ending)
        if stem != word and len(stem) > 2 and any(letter in "aeiouy" for letter in stem):
            doubled = stem[-1] == stem[-2] and stem[-1] not in "lsz"
            return stem[:-1] if doubled else stem
    return word[:-1] if len(word) > 3 and word.endswith("e") else word
