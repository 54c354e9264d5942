"""Means with their intervals over seeds and over questions, and the strongest attack, cross-fitted; pure functions."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from statistics import fmean as mean
from typing import Annotated, TypeVar

from pydantic import AfterValidator, with_config
from scipy import stats
from typing_extensions import TypedDict

from ..evaluation.scores import Scores
from ..files import finite
from .schema import STRICT, Count, Number, Text


@with_config(STRICT)
class Bounds(TypedDict):
    """A mean with its interval, over `n` values."""

    mean: Number | None
    low: Number | None
    high: Number | None
    n: Count


@with_config(STRICT)
class BoundsOfOne(Bounds):
    """The mean and interval of the strongest adversary, with its name; `None` where no attack has a value."""

    adversary: Text | None


AnyBounds = TypeVar("AnyBounds", bound=Bounds)


def _both_or_none(estimate: AnyBounds) -> AnyBounds:
    if (estimate["low"] is None) != (estimate["high"] is None):
        raise ValueError("one of its bounds is missing")
    return estimate


Estimate = Annotated[Bounds, AfterValidator(_both_or_none)]
EstimateOfOne = Annotated[BoundsOfOne, AfterValidator(_both_or_none)]
Range = tuple[float, float]  # where a value can lie
SHARE: Range = (0.0, 1.0)
DIFFERENCE: Range = (-1.0, 1.0)  # of two shares
# means of the same scores in another order differ by the rounding of float64, which is far smaller
ROUNDING = 1e-12
MAX_SEEDS_SPLIT = 10  # 2^10 subsets, a choice: with each further seed they take twice the time


def t_interval(values: Sequence[float], confidence: float = 0.95, within: Range | None = None) -> Estimate:
    """Mean and Student's t interval: mean ± t · s / √n with n − 1 degrees of freedom, truncated to where the mean can lie.

    Truncation keeps the coverage: what is cut off holds no mean. Equal values have no interval: their deviation of 0 says that
    no difference was seen, and not that there is none.

    Args:
        values (`Sequence[float]`):
            One value a seed.
        confidence (`float`, *optional*, defaults to `0.95`):
            Two-sided.
        within (`tuple[float, float]`, *optional*):
            Least and largest possible value, such as `SHARE`; by default there are none.

    Returns:
        `dict`: `mean`, `low`, `high` and `n`; the bounds are `None` for fewer than two values and for equal ones, the mean for
        none.
    """
    n = len(values)
    if n == 0:
        return {"mean": None, "low": None, "high": None, "n": 0}
    middle = mean(values)
    if max(values) - min(values) <= ROUNDING:
        return {"mean": middle, "low": None, "high": None, "n": n}
    deviation = math.sqrt(math.fsum((value - middle) ** 2 for value in values) / (n - 1))
    # not scipy.stats.t.interval, whose last digit differs in a third of all cases: recorded reports are compared exactly
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * deviation / math.sqrt(n)
    least, largest = within or (-math.inf, math.inf)
    # a share's mean may lie outside of [0, 1] by the rounding of float64, and its interval must hold it
    low, high = min(max(middle - half, least), middle), max(min(middle + half, largest), middle)
    return {"mean": middle, "low": low, "high": high, "n": n}


def clustered_standard_error(scores: Scores) -> float | None:
    """Standard error of the mean score, examples of one group counted as one draw.

    With e_g = Σ_{i in g} (x_i − mean) it is √(G / (G − 1) · Σ e_g²) / N; `None` for fewer than two groups, or scores
    that are not finite. Examples without an answer are left out.
    """
    scores = scores.answered()
    groups = range(len(scores.values)) if scores.groups is None else scores.groups
    mean = scores.mean()
    residuals: dict[object, float] = {}
    for group, value in zip(groups, scores.values, strict=True):
        residuals[group] = residuals.get(group, 0.0) + value - mean
    count = len(residuals)
    if count < 2:
        return None
    return finite(math.sqrt(count / (count - 1) * math.fsum(e * e for e in residuals.values())) / len(scores.values))


def over_seeds(
    values: Iterable[tuple[int, float | None]], pool: Callable[[list[float]], float], within: Range | None = None
) -> Estimate:
    """t interval over seeds of the values of each seed pooled, for example by `max` or the mean; `None` is left out. `within`
    is that of [`t_interval`]."""
    by_seed: dict[int, list[float]] = {}
    for seed, value in values:
        if value is not None:
            by_seed.setdefault(seed, []).append(value)
    return t_interval([pool(by_seed[seed]) for seed in sorted(by_seed)], within=within)


def over_adversaries(values: Iterable[tuple[str, int, float | None]], within: Range | None = None) -> Estimate:
    """t interval over seeds of the mean over adversaries; `None` is left out.

    Where some adversary lacks a seed that another has, means of seeds are of different attacks: the mean is then over
    the adversaries' own means, and has no interval.

    Args:
        values (`Iterable[tuple]`):
            Adversary, seed and value.
        within (`tuple[float, float]`, *optional*):
            As in [`t_interval`].
    """
    by_adversary: dict[str, dict[int, float]] = {}
    for name, seed, value in values:
        if value is not None:
            by_adversary.setdefault(name, {})[seed] = value
    seeds = {seed for scores in by_adversary.values() for seed in scores}
    if all(set(scores) == seeds for scores in by_adversary.values()):
        return over_seeds([(seed, v) for scores in by_adversary.values() for seed, v in scores.items()], mean, within)
    own = [mean(list(scores.values())) for scores in by_adversary.values()]
    return {"mean": mean(own), "low": None, "high": None, "n": len(seeds)}


def cross_fit_worst(values: Mapping[str, Mapping[int, float]], within: Range | None = None) -> EstimateOfOne:
    """The strongest adversary, chosen on some seeds and scored on the others, over all splits of the seeds.

    The maximum over adversaries of their own scores is too high, as it takes the luck of the seeds for strength. Here a
    seed's score is the mean over the splits in which it was not used to choose. That is too low where many adversaries are
    nearly as strong, since the choice often misses the strongest: the interval over seeds reaches up to the upper bound of the
    adversary with the largest mean of its own where that is higher.

    Args:
        values (`dict[str, dict[int, float]]`):
            Adversary → seed → harm, or R.
        within (`tuple[float, float]`, *optional*):
            As in [`t_interval`].

    Returns:
        `dict`: `mean`, `low`, `high`, `n` (seeds), and `adversary`, the one that was chosen most often. No mean for
        fewer than two seeds.
    """
    seeds = sorted({seed for scores in values.values() for seed in scores})
    scored: dict[int, list[float]] = {seed: [] for seed in seeds}
    chosen: list[str] = []
    for used in _splits(seeds):
        known = {name: [scores[seed] for seed in used if seed in scores] for name, scores in values.items()}
        means = {name: mean(scores) for name, scores in known.items() if scores}
        if not means:
            continue
        strongest = max(means, key=lambda name: means[name])
        chosen.append(strongest)
        for seed in set(seeds) - set(used):
            if seed in values[strongest]:
                scored[seed].append(values[strongest][seed])
    estimate = t_interval([mean(scores) for scores in scored.values() if scores], within=within)
    if estimate["high"] is not None:
        largest = max((list(scores.values()) for scores in values.values() if scores), key=mean)
        estimate["high"] = max(estimate["high"], t_interval(largest, within=within)["high"] or estimate["high"])
    return {**estimate, "adversary": max(dict.fromkeys(chosen), key=chosen.count, default=None)}


def _splits(seeds: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Seeds to choose on: every subset that leaves one to score on; for many seeds, all but one."""
    sizes = range(1, len(seeds)) if len(seeds) <= MAX_SEEDS_SPLIT else [len(seeds) - 1]
    for size in sizes:
        yield from itertools.combinations(seeds, size)
