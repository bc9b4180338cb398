"""Lines of recipes, made up by a grammar, with a tag for each word: the data of this example.

Some words can be told by their neighbours only: `3 cloves of garlic` has a unit, and `1 teaspoon
ground cloves` a food.
"""

from __future__ import annotations

from random import Random
from typing import NamedTuple

TAGS = ["other", "amount", "unit", "food", "how"]

_AMOUNTS = ["1", "2", "3", "4", "6", "8", "10", "half", "a", "one", "two", "three", "four"]
_UNITS = ["cup", "cups", "teaspoon", "teaspoons", "tablespoons", "pound", "pounds", "ounces"]
_FOODS = ["butter", "milk", "flour", "sugar", "rice", "beef", "onions", "tomatoes", "beans"]
_SPICES = ["cloves", "cinnamon", "cumin", "ginger", "nutmeg"]
_HOW = ["chopped", "sliced", "melted", "grated", "fresh", "dried", "ground", "minced", "large"]
_BEFORE = ["add", "about", "plus", "with", "use", "then"]
_BEHIND = [["to", "taste"], ["if", "you", "like"], ["for", "serving"], ["or", "more"]]


class Line(NamedTuple):
    """The words of a line, and the number of each word's tag."""

    words: list[str]
    tags: list[int]


def make_lines(count: int, seed: int) -> list[Line]:
    """Make so many lines. The same seed gives the same ones."""
    random = Random(seed)
    return [_line(random) for _ in range(count)]


def ids_of(words: list[str]) -> list[int]:
    """The number of each word, as the model takes it; 0 for one that it does not know."""
    return [_NUMBERS.get(word, 0) for word in words]


def _line(random: Random) -> Line:
    pick = random.choice
    tagged = [(pick(_BEFORE), "other")] if random.random() < 0.3 else []
    tagged.append((pick(_AMOUNTS), "amount"))
    kind = random.randrange(6)
    if kind == 0:
        tagged += [(pick(["cloves", "clove", "heads"]), "unit"), *_of(random), ("garlic", "food")]
    elif kind == 1:
        tagged += [(pick(["sticks", "stick"]), "unit"), *_of(random), ("butter", "food")]
    elif kind == 2:
        tagged += [("cinnamon", "food"), ("sticks", "food")]
    elif kind == 3:
        tagged += [(pick(_UNITS), "unit"), *_of(random), *_how(random), (pick(_SPICES), "food")]
    elif kind == 4:
        tagged += [*_how(random), (pick(_FOODS), "food")]
    else:
        tagged += [(pick(_UNITS), "unit"), *_of(random), *_how(random), (pick(_FOODS), "food")]
    tagged += _how(random)
    if random.random() < 0.3:
        tagged += [(word, "other") for word in pick(_BEHIND)]
    return Line([word for word, _ in tagged], [TAGS.index(tag) for _, tag in tagged])


def _of(random: Random) -> list[tuple[str, str]]:
    return [("of", "other")] if random.random() < 0.5 else []


def _how(random: Random) -> list[tuple[str, str]]:
    return [(random.choice(_HOW), "how")] if random.random() < 0.4 else []


_KNOWN = sorted({word for line in make_lines(5000, seed=0) for word in line.words})
_NUMBERS = {word: number for number, word in enumerate(_KNOWN, 1)}
WORDS = len(_KNOWN) + 1  # how many numbers words have
