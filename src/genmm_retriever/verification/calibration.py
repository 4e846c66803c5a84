"""From a verifier's parts to one probability."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

import numpy as np

from genmm_retriever.verification.features import Parts

REACH_FIRST = 8
"""Candidates looked at first; they show how high a query's log-odds lie."""
REACH_DEPTH = 10
"""Hits up to which the margins hold; for more of them nobody is ruled out."""
_ENCODER_SHARE = 0.3

Texts = Literal[
    "passages by picture", "passages by picture alone", "passages by words", "captions by picture"
]
"""How texts are looked for where no picture is a candidate: by clues, with a picture and words,
with one of them alone, or by identifiers, with a picture alone."""
TEXTS: dict[Texts, str] = {
    "passages by picture": "passages_",
    "passages by picture alone": "shown_",
    "passages by words": "texts_",
    "captions by picture": "captions_",
}
"""How the names of `Calibration.for_texts`'s weights begin."""


def texts_sought(identifiers: str, *, words: bool, picture: bool) -> Texts | None:
    """How a query looks for texts where no picture is a candidate.

    Args:
        identifiers: The index's kind of identifiers.
        words: Whether the query has words.
        picture: Whether it has a picture.

    Returns:
        None where the usual weights hold.

    Examples:
        >>> texts_sought("structured", words=False, picture=True)
        'captions by picture'
    """
    if identifiers == "clue":
        if not picture:
            return "passages by words"
        return "passages by picture" if words else "passages by picture alone"
    return "captions by picture" if picture and not words else None


@dataclass(frozen=True)
class Calibration:
    """Weights of a logistic model over the parts: `p = sigmoid(bias + sum(weight * part))`.

    Three such models: all parts, the cheap parts alone (`cheap_`), and the cheap parts with
    the likelihood given the candidate's words (`words_`). From the last two follows how high
    the first can still come, see `reach`.

    The defaults suit a model about which nothing is known: likelihood decides, the first
    stage breaks ties, nobody is ruled out. Trained weights come with the builtin model; `fit`
    makes them.

    Args:
        likelihood: Weight a nat per token.
        text_likelihood: Weight a nat per token given the candidate's words; above zero the
            words are always read.
        contrastive: Weight of the cosine.
        objects: Weight of the similarity to the objects seen.
        generation: Weight a nat of the first stage's score.
        bias: Log-odds of a candidate whose parts are all zero.
        cheap_contrastive: Weight of the cosine where the likelihood was not computed.
        cheap_objects: Weight of the objects where the likelihood was not computed.
        cheap_generation: Weight of the first stage where the likelihood was not computed.
        cheap_bias: Bias where the likelihood was not computed.
        words_likelihood: Weight of the likelihood given the words where that is all.
        words_contrastive: Weight of the cosine there.
        words_objects: Weight of the objects there.
        words_generation: Weight of the first stage there.
        words_bias: Bias there.
        reach_slope: Log-odds by all parts that one of the cheap log-odds is worth.
        reach_margin: How far above its prediction a candidate may come; infinite: unknown.
        words_reach_slope: As `reach_slope`, of the log-odds with the words.
        words_reach_margin: As `reach_margin`, of the log-odds with the words.
        debias: Weight of the unconditional log-probability in the beam.
        guidance: Weight of what a contrastive head says of the topics that a query may mean,
            beside the language model in the beam; zero leaves the choice to the latter.
        passages_likelihood: Weight a nat per token where a question about a picture looks for
            passages by clues, see `for_texts`.
        passages_contrastive: Weight of the cosine there.
        passages_objects: Weight of the objects there.
        passages_generation: Weight of the clues' score there.
        passages_bias: Bias there.
        shown_likelihood: Weight a nat per token where a picture alone looks for passages by clues.
        shown_contrastive: Weight of the cosine there.
        shown_objects: Weight of the objects there.
        shown_generation: Weight of the clues' score there.
        shown_bias: Bias there.
        texts_likelihood: Weight a nat per token where words look for passages by clues.
        texts_contrastive: Weight of the cosine there.
        texts_objects: Weight of the objects there.
        texts_generation: Weight of the clues' score there.
        texts_bias: Bias there.
        captions_likelihood: Weight a nat per token where a picture looks for captions.
        captions_contrastive: Weight of the cosine there.
        captions_objects: Weight of the objects there.
        captions_generation: Weight of the identifiers' score there.
        captions_bias: Bias there.
        choice_scale: Weight of the log-odds that a choice among options gives.
        choice_bias: Log-odds added to it.
        yesno_scale: Weight of the log-odds of "yes" over "no".
        yesno_bias: Log-odds added to it.
        answer_from: Probability of the best hit, at least, for a question to be answered.
    """

    likelihood: float = 3.0
    text_likelihood: float = 0.0
    contrastive: float = 10.0
    objects: float = 5.0
    generation: float = 0.1
    bias: float = -2.0
    cheap_contrastive: float = 10.0
    cheap_objects: float = 5.0
    cheap_generation: float = 0.1
    cheap_bias: float = -4.0
    words_likelihood: float = 3.0
    words_contrastive: float = 10.0
    words_objects: float = 5.0
    words_generation: float = 0.1
    words_bias: float = -3.0
    reach_slope: float = 1.0
    reach_margin: float = math.inf
    words_reach_slope: float = 1.0
    words_reach_margin: float = math.inf
    debias: float = 1.0
    guidance: float = 4.0
    passages_likelihood: float = 1.0
    passages_contrastive: float = 5.0
    passages_objects: float = 0.0
    passages_generation: float = 1.0
    passages_bias: float = -4.0
    shown_likelihood: float = 1.0
    shown_contrastive: float = 5.0
    shown_objects: float = 0.0
    shown_generation: float = 1.0
    shown_bias: float = -4.0
    texts_likelihood: float = 1.0
    texts_contrastive: float = 5.0
    texts_objects: float = 0.0
    texts_generation: float = 1.0
    texts_bias: float = -4.0
    captions_likelihood: float = 3.0
    captions_contrastive: float = 10.0
    captions_objects: float = 0.0
    captions_generation: float = 0.1
    captions_bias: float = -2.0
    choice_scale: float = 1.0
    choice_bias: float = 0.0
    yesno_scale: float = 1.0
    yesno_bias: float = 0.0
    answer_from: float = 0.0

    @classmethod
    def of(cls, model: Any) -> Calibration:
        """The calibration that a model brings along, or the defaults.

        Weights that were fitted without the words give them none.
        """
        known: Mapping[str, Any] = getattr(model, "calibration", None) or {}
        names = {field.name for field in fields(cls)}
        given = {name: float(value) for name, value in known.items() if name in names}
        if any(not name.startswith(("choice_", "yesno_")) for name in given):
            given = {"words_likelihood": 0.0} | given
        return cls(**given)

    def for_texts(self, sought: Texts) -> Calibration:
        """The weights with which texts are looked for, where no picture is a candidate.

        Clues stand in the passages word for word and say most; a question about a picture is
        seldom repeated where it is answered, so its likelihood given a passage says little. A
        picture alone may look for what names it or for what describes it. And what a picture adds
        to the likelihood of captions is not on the scale of what captions add to that of a query.
        Beside pictures the usual weights hold, which compare both kinds.

        Args:
            sought: What is looked for, and how.
        """
        prefix = TEXTS[sought]
        names = ("contrastive", "objects", "generation", "bias")
        cheap = {name: getattr(self, prefix + name) for name in names}
        likelihood: float = getattr(self, f"{prefix}likelihood")
        stages = ("", "cheap_", "words_")
        changes = {f"{stage}{name}": value for stage in stages for name, value in cheap.items()}
        return replace(
            self,
            **changes,
            likelihood=likelihood,
            text_likelihood=0.0,
            words_likelihood=likelihood,
            reach_margin=math.inf,
            words_reach_margin=math.inf,
        )

    def with_encoder(self, scale: float) -> Calibration:
        """The weights with a contrastive encoder in place of a head of the model's own.

        Its cosines count by a share of what they were multiplied by in its training: that all of
        it would be too much beside other parts is known, how much is right for an encoder and a
        model is not. What was learnt about the reach of candidates was learnt with the head.

        Args:
            scale: The encoder's.
        """
        weight = _ENCODER_SHARE * scale
        return replace(
            self,
            contrastive=weight,
            cheap_contrastive=weight,
            words_contrastive=weight,
            reach_margin=math.inf,
            words_reach_margin=math.inf,
        )

    def to_json(self) -> dict[str, float]:
        """The weights, for a model's settings; margins that are not known are left out."""
        return {name: value for name, value in asdict(self).items() if math.isfinite(value)}

    def choice(self, log_odds: np.ndarray) -> np.ndarray:
        """Log-odds from those of being chosen, in the same order."""
        return self.choice_scale * log_odds + self.choice_bias

    def yesno(self, log_odds: np.ndarray) -> np.ndarray:
        """Log-odds from those of "yes" over "no", in the same order."""
        return self.yesno_scale * log_odds + self.yesno_bias

    @property
    def reads_words(self) -> bool:
        """Whether the likelihood given a candidate's words says anything."""
        return self.words_likelihood > 0 or self.text_likelihood > 0

    def cheap(self, parts: Parts) -> np.ndarray:
        """Log-odds from the cheap parts alone, [n]."""
        return (
            self.cheap_bias
            + self.cheap_contrastive * _known(parts.contrastive)
            + self.cheap_objects * _known(parts.objects)
            + self.cheap_generation * known_generation(parts.generation)
        )

    def unseen(self, parts: Parts) -> np.ndarray:
        """Log-odds from all that is known without the likelihood, [n]."""
        with_words = (
            self.words_bias
            + self.words_likelihood * _known(parts.words)
            + self.words_contrastive * _known(parts.contrastive)
            + self.words_objects * _known(parts.objects)
            + self.words_generation * known_generation(parts.generation)
        )
        log_odds: np.ndarray = np.where(np.isnan(parts.words), self.cheap(parts), with_words)
        return log_odds

    def full(self, parts: Parts) -> np.ndarray:
        """Log-odds from all parts, [n]; where the likelihood is missing it counts as zero."""
        return (
            self.bias
            + self.likelihood * _known(parts.likelihood)
            + self.text_likelihood * _known(parts.words)
            + self.contrastive * _known(parts.contrastive)
            + self.objects * _known(parts.objects)
            + self.generation * known_generation(parts.generation)
        )

    def can_rule_out(self, worded: bool) -> bool:
        """Whether a margin is known for candidates whose words were read, or were not."""
        return math.isfinite(self.words_reach_margin if worded else self.reach_margin)

    def reach(self, unseen: np.ndarray, worded: bool, first: np.ndarray) -> np.ndarray:
        """The highest log-odds by all parts that candidates are expected to reach, [n].

        `slope * unseen + level + margin`, where the level is that of the query: how far those
        looked at first lay above `slope * unseen`. The margin is a conformal quantile
        (`evaluation.calibration`), so that on queries like those it was learned on, in at
        least so many none of the best `REACH_DEPTH` is ruled out.

        Args:
            unseen: Log-odds without the likelihood, [n], best first.
            worded: Whether the words of all of them were read, or of none.
            first: Log-odds by all parts of the first `REACH_FIRST` of them.
        """
        slope, margin = (
            (self.words_reach_slope, self.words_reach_margin)
            if worded
            else (self.reach_slope, self.reach_margin)
        )
        level = float((first - slope * unseen[: len(first)]).mean())
        highest: np.ndarray = slope * unseen + level + margin
        return highest


def sigmoid(values: np.ndarray) -> np.ndarray:
    """Log-odds to probabilities, without overflow.

    Examples:
        >>> sigmoid(np.array([0.0, -1000.0])).tolist()
        [0.5, 0.0]
    """
    out: np.ndarray = np.exp(-np.logaddexp(0.0, -values))
    return out


def _known(part: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(part), 0.0, part)


def known_generation(part: np.ndarray) -> np.ndarray:
    """Missing scores count as the lowest one known: an item that nothing led to is no better."""
    if np.isnan(part).all():
        return np.zeros_like(part)
    return np.where(np.isnan(part), np.nanmin(part), part)
