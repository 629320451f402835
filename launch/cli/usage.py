"""The words that a user typed: mistyped options and options without effect are refused before anything runs.

Commands pass flags that they do not know on to SGLang, so argparse alone cannot tell a typing error from a
flag of SGLang's, and would take the value that follows it for the model.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable, Iterable, Sequence


def typed(words: Sequence[str], option: str) -> bool:
    """Whether ``option`` is among ``words``, with its value in the same word or the next."""
    return any(word == option or word.startswith(f"{option}=") for word in words)


def own_options(parser: argparse.ArgumentParser) -> list[str]:
    """The long options of a command."""
    return [word for action in parser._actions for word in action.option_strings if word.startswith("--")]


def settle(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int]) -> None:
    """``run`` for a command that passes flags on to SGLang, and what :func:`check_flags` asks of it."""
    parser.set_defaults(
        run=run, passes_flags_on=True, usage_error=parser.error, own_options=own_options(parser)
    )


def check_flags(args: argparse.Namespace, model: str | None) -> list[str]:
    """SGLang's flags among the words of a command that was asked for ``model``.

    Ends with a usage error where a flag that the command does not know stands before the model (the word
    taken for the model may be its value), or is an option of the command with a typing error.
    """
    flags = [word for word in args.rest if word != "--"]
    unknown = [word.partition("=")[0] for word in flags if word.startswith("--")]
    for word in unknown:
        if near := difflib.get_close_matches(word, args.own_options, n=1, cutoff=0.85):
            args.usage_error(f"unknown option {word}; did you mean {near[0]}?")
    if flags and (model is None or args.words.index(flags[0]) < args.words.index(model)):
        first = flags[0].partition("=")[0]
        args.usage_error(f"unknown option {first} (MODEL comes before SGLang's flags: MODEL {first} ...)")
    return flags


def refuse_idle(args: argparse.Namespace, options: Iterable[str], why: str) -> None:
    """A usage error that names those of ``options`` that were typed: ``why`` they have no effect."""
    idle = [option for option in options if typed(args.words, option)]
    if idle:
        args.usage_error(f"{', '.join(idle)}: no effect {why}")
