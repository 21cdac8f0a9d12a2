"""Compact mappings of keys to numbers and to lists of numbers, since a leaderboard is made from hundreds of thousands
of them; and the rounding of numbers to the digits in which processors agree."""

import math
from array import array
from collections.abc import Hashable, Iterator, Mapping
from itertools import accumulate
from typing import ClassVar, TypeVar

Key = TypeVar("Key", bound=Hashable)


def significant(number: float, digits: int) -> float:
    """The number rounded to that many significant digits."""
    return float(f"{number:.{digits}g}")


class Numbers(Mapping[Key, float]):
    """A read-only mapping of keys to numbers in a quarter of a dictionary's memory: all mappings with the same keys in
    the same order share the keys."""

    __slots__ = ("_places", "_values")
    _shared: ClassVar[dict[tuple[Hashable, ...], dict[Hashable, int]]] = {}

    def __init__(self, numbers: Mapping[Key, float]):
        keys = tuple(numbers)
        if keys not in self._shared:
            self._shared[keys] = {key: place for place, key in enumerate(keys)}
        self._places = self._shared[keys]
        self._values = array("d", numbers.values())

    def __getitem__(self, key: Key) -> float:
        return self._values[self._places[key]]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._places)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self._values)


class Lists(Mapping[str, list[float | None]]):
    """A read-only mapping of names to lists of numbers or None, kept as one array: all mappings with the same names and
    lengths in the same order share the names and lengths."""

    __slots__ = ("_places", "_values")
    _shared: ClassVar[dict[tuple[tuple[str, int], ...], dict[str, slice]]] = {}

    def __init__(self, lists: Mapping[str, list[float | None]]):
        lengths = tuple((name, len(values)) for name, values in lists.items())
        if lengths not in self._shared:
            ends = accumulate(length for _, length in lengths)
            self._shared[lengths] = {name: slice(end - length, end)
                                     for (name, length), end in zip(lengths, ends, strict=True)}
        self._places = self._shared[lengths]
        self._values = array("d", (math.nan if value is None else value for some in lists.values() for value in some))

    def __getitem__(self, name: str) -> list[float | None]:
        return [None if math.isnan(value) else value for value in self._values[self._places[name]]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
