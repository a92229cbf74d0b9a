r"""Reads regexes in the notation of NL-RX, and compares them by the lines that they match.

The notation is that of Python's `re`, plus `a&b` (both match) and `~a` (a does not match). The precedence, tightest
first, is that of the automata library of NL-RX's authors (dk.brics.automaton):

    a single character, a class, a group
    ~a          so that ~ab is (~a)b, and ~a* is (~a)*
    a* a+ a? a{2,3}
    ab
    a&b
    a|b

A regex must match a whole line. A line is any text without a line feed, so `.` is any character of it, and `~a` any
line that `a` does not match. `\w`, `\d`, `\s` and `\b` mean ASCII, the alphabet of the data: `\d` is `[0-9]`. `a*?`
matches the same lines as `a*`. A capturing group is an ordinary group. What depends on more than the next character
(lookaround, references to groups, atomic and possessive repeats, flags) is read but not decided.

The text of a regex is parsed here, from left to right. It is never the pattern of a regex engine that backtracks.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce
from string import hexdigits
from typing import NoReturn

from . import automata
from .automata import Alphabet, Automaton, Difference, Node, Ranges, contexts

# Our choice. The longest gold of NL-RX has 54 characters; 5,000 nested groups with ~ have 15,001.
MAX_CHARS = 20_000
MAX_COUNT = 10**9  # in {n}; Python's own limit is 4 times as high

WORD: Ranges = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
DIGIT: Ranges = ((0x30, 0x39),)
SPACE: Ranges = ((0x09, 0x0D), (0x20, 0x20))


class RegexSyntaxError(ValueError):
    """The text is not a regex in this notation; the message says why, and where."""


class UndecidableError(Exception):
    """The text is a regex, but of a kind that cannot be compared, or too long."""


def union(*sets: Ranges) -> Ranges:
    """Return the characters of any of the sets."""
    joined: list[tuple[int, int]] = []
    for low, high in sorted(piece for ranges in sets for piece in ranges):
        if joined and low <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
        else:
            joined.append((low, high))
    return tuple(joined)


def complement(ranges: Ranges) -> Ranges:
    """Return all other characters."""
    left, start = [], 0
    for low, high in union(ranges):
        if start < low:
            left.append((start, low - 1))
        start = high + 1
    if start <= automata.MAX_CODE_POINT:
        left.append((start, automata.MAX_CODE_POINT))
    return tuple(left)


def one(code: int) -> Ranges:
    """Return the set of one character."""
    return ((code, code),)


ANY = complement(one(automata.LINE_FEED))
CLASSES = {"w": WORD, "d": DIGIT, "s": SPACE, "W": complement(WORD), "D": complement(DIGIT), "S": complement(SPACE)}
CONTROLS = {"n": 0x0A, "t": 0x09, "r": 0x0D, "f": 0x0C, "v": 0x0B, "a": 0x07}
COUNTS = re.compile(r"([0-9]*+)(,?)([0-9]*+)}")  # possessive, so that a long number takes no longer to read
HEX_DIGITS = {"x": 2, "u": 4, "U": 8}

BOUNDARY = contexts(lambda before, after: (before == automata.WORD) != (after == automata.WORD))
ASSERTIONS = {
    "^": contexts(lambda before, after: before == automata.NOTHING),
    "A": contexts(lambda before, after: before == automata.NOTHING),
    "$": contexts(lambda before, after: after == automata.NOTHING),
    "Z": contexts(lambda before, after: after == automata.NOTHING),
    "b": BOUNDARY,
    "B": automata.ALL_CONTEXTS & ~BOUNDARY,
}

# A step of a parsed regex: it takes as many nodes as the number says from the stack, and puts one on it.
Step = tuple[Callable[[Automaton, list[Node]], Node], int]


def _concat(automaton: Automaton, parts: list[Node]) -> Node:
    return reduce(lambda node, part: automaton.concat(part, node), reversed(parts), automaton.empty)


@dataclass
class _Group:
    """An open group: the number of parts so far in its last sequence, its last `&` and its `|`."""

    pieces: int = 0
    sequences: int = 0
    terms: int = 0
    negations: int = 0  # number of `~` whose operand has not been read yet


@dataclass
class Regex:
    """A parsed regex: steps that build it, in postfix order, and what the alphabet must contain for them."""

    steps: list[Step] = field(default_factory=list)
    sets: list[Ranges] = field(default_factory=list)
    has_assertion: bool = False  # whether it depends on the characters around a place

    def build(self, automaton: Automaton) -> Node:
        """Return its node."""
        stack: list[Node] = []
        for make, count in self.steps:
            start = len(stack) - count
            stack[start:] = [make(automaton, stack[start:])]
        (node,) = stack
        return node


class _Parser:
    """Reads one regex from left to right. Open groups are in a list, so no nesting is too deep."""

    def __init__(self, text: str) -> None:
        self.text, self.place = text, 0
        self.regex = Regex()
        self.groups = [_Group()]
        self.can_repeat = False  # whether a quantifier is allowed here

    def parse(self) -> Regex:
        while self.place < len(self.text):
            self._read(self._next())
        if len(self.groups) > 1:
            self._fail("a group is not closed")
        self._close_terms()
        return self.regex

    def _next(self) -> str:
        if self.place == len(self.text):
            self._fail("it ends too soon")
        self.place += 1
        return self.text[self.place - 1]

    def _peek(self, expected: str) -> bool:
        return self.text.startswith(expected, self.place)

    def _take(self, expected: str) -> bool:
        found = self._peek(expected)
        self.place += len(expected) if found else 0
        return found

    def _fail(self, problem: str) -> NoReturn:
        raise RegexSyntaxError(f"{problem}, at character {self.place}")

    def _read(self, char: str) -> None:
        group = self.groups[-1]
        if char == "(":
            self._open()
        elif char == ")":
            if len(self.groups) == 1:
                self._fail("a ')' closes nothing")
            self._close_terms()
            self.groups.pop()
            self._finish_piece()
        elif char in "|&":
            self._close_sequence()
            if char == "|":
                self._close_term()
            self.can_repeat = False
        elif char == "~":
            group.negations += 1
            self.can_repeat = False
        elif char in "*+?{":
            self._quantify(char)
        elif char == "[":
            self._push_set(self._read_set())
        elif char == ".":
            self._push_set(ANY)
        elif char in "^$":
            self._push_where(ASSERTIONS[char])
        elif char == "\\":
            self._read_escape()
        else:
            self._push_set(one(ord(char)))

    # ---- pieces, sequences, terms ----

    def _push_set(self, ranges: Ranges) -> None:
        self.regex.sets.append(ranges)
        self.regex.steps.append((lambda automaton, _: automaton.chars(automaton.alphabet.bits[ranges]), 0))
        self._finish_piece()

    def _push_where(self, where: int) -> None:
        self.regex.has_assertion = True
        self.regex.steps.append((lambda automaton, _: automaton.assertion(where), 0))
        self._finish_piece()

    def _finish_piece(self) -> None:
        group = self.groups[-1]
        if group.negations % 2:
            self.regex.steps.append((lambda automaton, parts: automaton.negate(parts[0]), 1))
        group.negations = 0
        group.pieces += 1
        self.can_repeat = True

    def _close_sequence(self) -> None:
        group = self.groups[-1]
        if group.negations:
            self._fail("nothing follows '~'")
        if group.pieces != 1:
            self.regex.steps.append((_concat, group.pieces))
        group.pieces, group.sequences = 0, group.sequences + 1

    def _close_term(self) -> None:
        group = self.groups[-1]
        if group.sequences > 1:
            self.regex.steps.append((Automaton.both, group.sequences))
        group.sequences, group.terms = 0, group.terms + 1

    def _close_terms(self) -> None:
        self._close_sequence()
        self._close_term()
        if self.groups[-1].terms > 1:
            self.regex.steps.append((Automaton.either, self.groups[-1].terms))

    def _open(self) -> None:
        if self._take("?#"):
            end = self.text.find(")", self.place)
            if end < 0:
                self._fail("a comment is not closed")
            self.place = end + 1
            return
        if self._take("?P<"):
            end = self.text.find(">", self.place)
            if end < 0 or not self.text[self.place : end].isidentifier():
                self._fail("a group's name is not closed, or is no name")
            self.place = end + 1
        elif self._peek("?") and not self._take("?:"):
            kind = self.text[self.place : self.place + 2]
            if kind[1:] in ("=", "!", "<", ">", "(", "P") or (kind[1:] and kind[1:] in "aiLmsux-"):
                raise UndecidableError(f"it has a group that begins with '({kind}'")
            self._fail("a group begins with an unknown sign after '?'")
        self.groups.append(_Group())
        self.can_repeat = False

    # ---- repeats ----

    def _quantify(self, char: str) -> None:
        counts = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(char) or self._read_counts()
        if counts is None:  # any other '{' is an ordinary character, as in `re`
            self._push_set(one(ord(char)))
            return
        fewest, most = counts
        if not self.can_repeat:
            self._fail("there is nothing to repeat before a repeat")
        if most is not None and most < fewest:
            self._fail("the lower limit of a repeat is above the upper one")
        if self._take("+"):
            raise UndecidableError("it has a possessive repeat")
        self._take("?")  # a lazy repeat matches the same lines
        self.regex.steps.append((lambda automaton, parts: automaton.loop(parts[0], fewest, most), 1))
        self.can_repeat = False

    def _read_counts(self) -> tuple[int, int | None] | None:
        """Read `2}`, `2,}`, `,3}` or `2,3}`; if none of them is here, read nothing and return None."""
        found = COUNTS.match(self.text, self.place)
        if found is None or found[0] == "}":
            return None
        self.place = found.end()
        fewest, comma, most = found.groups()
        last = most if comma else fewest
        return self._count(fewest), self._count(last) if last else None

    def _count(self, digits: str) -> int:
        digits = digits.lstrip("0") or "0"
        if len(digits) > len(str(MAX_COUNT)) or int(digits) > MAX_COUNT:
            raise UndecidableError(f"it has a repeat of more than {MAX_COUNT:,}")
        return int(digits)

    # ---- escapes and sets ----

    def _read_escape(self) -> None:
        char = self._next()
        if char in CLASSES:
            self._push_set(CLASSES[char])
        elif char in ASSERTIONS and char not in "^$":
            self._push_where(ASSERTIONS[char])
        elif "1" <= char <= "9":
            raise UndecidableError(f"it refers to a group, '\\{char}'")
        else:
            self._push_set(one(self._character(char)))

    def _character(self, char: str) -> int:
        """Return the character that a backslash followed by `char` means."""
        if char in CONTROLS:
            return CONTROLS[char]
        if char in HEX_DIGITS:
            digits = self.text[self.place : self.place + HEX_DIGITS[char]]
            self.place += len(digits)
            if len(digits) < HEX_DIGITS[char] or not set(digits) <= set(hexdigits):
                self._fail(f"'\\{char}' needs {HEX_DIGITS[char]} hexadecimal digits")
            if int(digits, 16) > automata.MAX_CODE_POINT:
                self._fail("there is no such character")
            return int(digits, 16)
        if char == "0":
            after = self.text[self.place : self.place + 2]
            count = len(after) - len(after.lstrip("01234567"))
            self.place += count
            return int("0" + after[:count], 8)
        if char == "N":
            raise UndecidableError("it names a character, '\\N'")
        if char.isascii() and char.isalnum():
            self._fail(f"'\\{char}' means nothing")
        return ord(char)

    def _read_set(self) -> Ranges:
        is_negated = self._take("^")
        found: list[Ranges] = []
        while not (self._peek("]") and found):
            low, is_class = self._set_item()
            if not self._peek("-]") and self._take("-"):
                high, is_other_class = self._set_item()
                if is_class or is_other_class:
                    self._fail("a range of a set ends in a class")
                if high[0][0] < low[0][0]:
                    self._fail("a range of a set runs backwards")
                low = ((low[0][0], high[0][0]),)
            found.append(low)
        self.place += 1
        ranges = union(*found)
        return complement(ranges) if is_negated else ranges

    def _set_item(self) -> tuple[Ranges, bool]:
        """Return one character or class of a set, and whether it is a class."""
        char = self._next()
        if char != "\\":
            return one(ord(char)), False
        char = self._next()
        if char in CLASSES:
            return CLASSES[char], True
        if "1" <= char <= "9":
            raise UndecidableError(f"it has an octal number in a set, '\\{char}'")
        return one(0x08 if char == "b" else self._character(char)), False


def parse(text: str) -> Regex:
    """Read a regex of NL-RX's notation; RegexSyntaxError or UndecidableError if it cannot be compared."""
    if len(text) > MAX_CHARS:
        raise UndecidableError(f"it has {len(text):,} characters, more than {MAX_CHARS:,}")
    return _Parser(text).parse()


def difference(left: Regex, right: Regex, *, deadline: float | None = None) -> Difference | None:
    r"""Return a line that one of two regexes matches and the other does not; None if they match the same lines.

    Example:
        >>> difference(parse("(a|b)*"), parse("(a*b*)*")) is None
        True
        >>> difference(parse("[0-9]{2,}"), parse("[0-9]+"))
        Difference(line='0', is_of_first=False)

    The deadline is in `time.thread_time()` seconds; by default it is after `automata.MAX_SECONDS`.
    """
    deadline = time.thread_time() + automata.MAX_SECONDS if deadline is None else deadline
    looks_around = left.has_assertion or right.has_assertion
    alphabet = Alphabet([*left.sets, *right.sets], WORD if looks_around else ())
    automaton = Automaton(alphabet, deadline)
    return automaton.difference(left.build(automaton), right.build(automaton))
