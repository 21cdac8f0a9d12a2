"""The search space of a method: the ranges of its hyperparameters, and ranges of the recipe's learning rate and weight
decay around the suite's values."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from kdbench.errors import UserError, unknown
from kdbench.plugins.source import SCALES, Hyperparameter, MethodInfo, Value, usual_scale
from kdbench.spec import Recipe

RECIPE = "recipe"                  # prefix of the names of the recipe's values
SHARED = ("lr", "weight_decay")    # the recipe's values that are tuned, for every method alike
FACTOR = 10.0                      # by which these may differ from the suite's values
FIXED = "fixed"                    # what a suite gives for a value that is not tuned
DIGITS = 4                         # significant digits of a number that is tried
GRID = (0.25, 0.5, 0.75)           # positions in a number's range that a grid tries, besides its centre


class Limits(NamedTuple):
    """The range and scale in which a number is searched."""

    low: float
    high: float
    scale: str  # one of SCALES


@dataclass(frozen=True)
class Dimension:
    """One value that tuning may vary, and what it may try: a range of numbers or choices."""

    name: str                              # "alpha", or "recipe.lr"
    centre: Value                          # the value without tuning, which is tried first
    limits: Limits | None = None           # of a number; None for choices
    choices: tuple[Value, ...] = ()        # of any other value; empty for a number
    whole: bool = False                    # whether it is an integer

    def value(self, position: float) -> Value:
        """The number at a position from 0 to 1 in the range, rounded to `DIGITS` significant digits or to an integer.
        The centre is at position 0.5, and the scale holds on either side of it, so that half of all positions are below
        it and half above, wherever in the range it is. A centre at an end of the range stays there, and the scale
        extends from end to end."""
        assert self.limits is not None
        low, high = map(self.scaled, self.limits[:2])
        centre = self.scaled(self.centre)
        if not low < centre < high:
            found = low + (high - low) * position
        elif position <= 0.5:
            found = low + (centre - low) * 2 * position
        else:
            found = centre + (high - centre) * (2 * position - 1)
        if position == self.position:
            return self.centre
        number = float(f"{math.exp(found) if self.limits.scale == 'log' else found:.{DIGITS}g}")
        number = min(max(number, self.limits.low), self.limits.high)
        return round(number) if self.whole else number

    @property
    def position(self) -> float:
        """The position of the centre in the range: 0 or 1 at an end of the range, otherwise 0.5."""
        assert self.limits is not None
        return 0.0 if self.centre <= self.limits.low else 1.0 if self.centre >= self.limits.high else 0.5  # type: ignore[operator]

    def scaled(self, number: Any) -> float:
        """A number on the scale of the search: its logarithm if the scale is "log", otherwise the number itself."""
        assert self.limits is not None
        return math.log(number) if self.limits.scale == "log" else float(number)

    def grid(self) -> list[Value]:
        """The values that a grid tries: the centre first, then the numbers at the positions of `GRID`, or the other
        choices."""
        points = self.choices if self.limits is None else [self.value(position) for position in GRID]
        return list(dict.fromkeys([self.centre, *points]))

    def as_json(self) -> list[Any]:
        """All that identifies the dimension, as a JSON list."""
        return [self.name, self.centre, list(self.limits or ()), list(self.choices), self.whole]

    def __str__(self) -> str:
        if self.limits is None:
            return ", ".join(map(str, self.choices))
        return f"{self.limits.low:g} to {self.limits.high:g}, {self.limits.scale}"


Space = tuple[Dimension, ...]


def space_of(info: MethodInfo, hyperparameters: Mapping[str, Value], recipe: Recipe,
             overrides: Mapping[str, Mapping[str, Any]], source: str) -> Space:
    """The search space of a method around these hyperparameters and the recipe, with the changes of a suite's `space`
    in `overrides`. UserError, whose message begins with `source`, for a range that is empty, contradictory or not
    allowed."""
    found = []
    for name, centre in hyperparameters.items():
        parameter = info.hyperparameters[name]
        where, written = f"{source}: space.{info.name}.{name}", overrides.get(info.name, {}).get(name)
        found.append(_dimension(parameter, centre) if written is None
                     else _overridden(parameter, centre, written, where))
    for name in SHARED:
        where, written = f"{source}: space.{RECIPE}.{name}", overrides.get(RECIPE, {}).get(name)
        suites = float(getattr(recipe, name))
        parameter = Hyperparameter(f"{RECIPE}.{name}", "float", suites, (0.0, math.inf))
        if written is not None:
            found.append(_overridden(parameter, suites, written, where))
        elif suites > 0:
            found.append(Dimension(parameter.name, suites, Limits(suites / FACTOR, suites * FACTOR, "log")))
    return tuple(one for one in found if one is not None)


def check_names(overrides: Mapping[str, Mapping[str, Any]], methods: Mapping[str, MethodInfo], source: str) -> None:
    """Raise UserError if `overrides` has a method or value that does not exist. The message names `source`."""
    for owner, values in overrides.items():
        if owner != RECIPE and owner not in methods:
            raise unknown(f"method of {source}: space", owner, {*methods, RECIPE})
        allowed = SHARED if owner == RECIPE else methods[owner].hyperparameters
        for name in values:
            if name not in allowed:
                raise unknown(f"value of {source}: space.{owner}", name, allowed)


def rows(info: MethodInfo) -> list[dict[str, str]]:
    """The search space of a method without a suite, as the rows of the table that `kdbench show` prints, each by
    column."""
    own = [_dimension(parameter, parameter.default) for parameter in info.hyperparameters.values()]
    shown = [{"tuned": one.name, "space": str(one), "centre": str(one.centre)} for one in own if one is not None]
    return shown + [{"tuned": f"{RECIPE}.{name}", "space": f"a factor {FACTOR:g} to either side, log",
                     "centre": "the suite's"} for name in SHARED]


def _dimension(parameter: Hyperparameter, centre: Value) -> Dimension | None:
    """The dimension of a hyperparameter by the method's own range; None if the method declares no range, or one of a
    single value."""
    if parameter.range is None or len(set(parameter.range)) < 2:
        return None
    if (scale := parameter.scale) is None:
        return Dimension(parameter.name, centre, choices=parameter.range)
    low, high = parameter.range
    return Dimension(parameter.name, centre, Limits(low, high, scale), whole=parameter.type == "int")  # type: ignore[arg-type]


def _overridden(parameter: Hyperparameter, centre: Value, written: Any, where: str) -> Dimension | None:
    """The dimension of a value as the suite has `written` it; None if the suite fixes the value. UserError, whose
    message begins with `where`, if `written` is not a valid range, or choices, that include the `centre`."""
    if written == FIXED:
        return None
    if not isinstance(written, list) or len(written) < 2:
        raise UserError(f"{where}: expected [low, high], [low, high, 'log'], choices, or '{FIXED}', got {written!r}")
    if parameter.type in ("int", "float"):
        return _number(parameter, centre, written, where)
    choices = tuple(parameter.check(one, where) for one in written)
    if len(set(choices)) < len(choices):
        raise UserError(f"{where}: a choice is named twice: {written!r}")
    if centre not in choices:
        raise UserError(f"{where}: contradictory: the value without tuning, {centre!r}, is none of {written!r}")
    return Dimension(parameter.name, centre, choices=choices)


def _number(parameter: Hyperparameter, centre: Any, written: list[Any], where: str) -> Dimension:
    limits, scale = (written[:-1], written[-1]) if isinstance(written[-1], str) else (written, None)
    if len(limits) != 2 or (scale is not None and scale not in SCALES):
        raise UserError(f"{where}: expected [low, high], or [low, high, 'log'] or 'linear', got {written!r}")
    low, high = (parameter.check(one, where) for one in limits)
    if low >= high:
        raise UserError(f"{where}: an empty range, {low} to {high}")
    scale = scale or usual_scale(low, high)
    if scale == "log" and low <= 0:
        raise UserError(f"{where}: contradictory: a logarithmic scale begins above zero, got {low}")
    if parameter.name == f"{RECIPE}.lr" and low <= 0:
        raise UserError(f"{where}: a rate is above zero, got {low}")
    if not low <= centre <= high:
        raise UserError(f"{where}: contradictory: the value without tuning, {centre}, lies outside {low} to {high}; "
                        "the first trial is that value")
    return Dimension(parameter.name, centre, Limits(low, high, scale), whole=parameter.type == "int")
