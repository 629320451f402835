"""Facts and questions in sentences, as RULER words them (arXiv 2404.06654), for the tasks of :mod:`.prose`.

    The special magic number for quick fox is 481592.          a fact
    The special magic number for brave owl is that for quick fox.   a link

A name is an adjective and a noun, a value six digits.
"""

from __future__ import annotations

_ADJECTIVES = """
amber ancient bitter blue bold brave brief bright broad broken calm careful clever cold cosmic curious dark
dear dusty eager early easy empty faint famous fancy fast fierce fine flat fresh frozen gentle giant glad
golden grand gray green happy heavy hidden hollow honest humble icy jolly kind late lazy light lively lonely
loud lucky merry mild modest narrow noble old pale patient plain polite proud purple quick quiet rapid rare
red rough royal rusty scarlet sharp shiny silent silver
"""
_NOUNS = """
anchor apple arrow badger barn basket beacon bear bell bottle bridge bucket camel candle canyon castle cat
cellar cherry clock cloud coin comet cottage crane crow desert dolphin donkey dragon drum eagle falcon
farmer feather fern ferry forest fountain fox garden glacier goat harbor hawk hammer hill horse island
jacket jungle kettle kitten ladder lamp lantern lemon lion maple meadow mirror mountain needle ocean olive
otter owl paddle panda parrot pebble piano planet pony puppet rabbit river robin sailor shadow
"""
ADJECTIVES, NOUNS = tuple(_ADJECTIVES.split()), tuple(_NOUNS.split())
DIGITS = 6

OF, IS, THAT, END = " The special magic number for", " is", " that for", "."
WHAT, WHAT_ALL = " What is the special magic number for", " What are the special magic numbers for"
AND, ASK = " and", "?"


def name(code: int, alphabet: int = len(NOUNS)) -> str:
    """The name of a code below ``alphabet ** 2``, of the first ``alphabet`` words of each kind, with the
    space before it."""
    return f" {ADJECTIVES[code // alphabet]} {NOUNS[code % alphabet]}"


def fact(who: str, value: str) -> str:
    """``value``: digits."""
    return f"{OF}{who}{IS} {value}{END}"


def link(who: str, other: str) -> str:
    """``who`` has the value of ``other``."""
    return f"{OF}{who}{IS}{THAT}{other}{END}"


def question(who: str) -> str:
    """Up to where the answer begins."""
    return f"{WHAT}{who}{ASK}{OF}{who}{IS}"


def question_of_two(who: str, other: str) -> str:
    """Asks for two values; up to where the answer begins."""
    return f"{WHAT_ALL}{who}{AND}{other}{ASK}{OF}{who}{IS}"
