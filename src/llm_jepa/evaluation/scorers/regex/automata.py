r"""Do two regexes match the same lines? Brzozowski derivatives, computed only as far as the answer needs them.

The derivative of a language by a character is what may follow that character in it. A regex with its derivatives
is a deterministic automaton whose states are regexes. Intersection and complement need no extra work:
d(a & b) = d(a) & d(b), d(~a) = ~d(a) (Brzozowski, 1964; Owens, Reppy and Turon, 2009). Two regexes are equal if no
string leads them to a pair of states of which one accepts and the other does not. The pairs are searched breadth
first, and states found to be equal are merged (Hopcroft and Karp, 1971).

Characters that both regexes treat in the same way form a class. The alphabet consists of these classes, and a set of
characters is an integer with a bit for each class. No function is recursive, so no nesting is too deep, and each step
counts towards the limits of states and time.

`\b`, `^` and similar assertions match no character; they depend on the two characters around a place. So a state
includes what was before it (nothing, a word character, or another character). Whether a regex matches the empty string
is stored for each of the nine pairs of what is before and after.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise, product
from operator import and_, attrgetter, or_
from typing import NamedTuple

# Our choices. No pair of the NL-RX golds in this package comes near them.
MAX_STATES = 20_000
MAX_SECONDS = 0.7  # of processor time, so that a busy machine gives the same result; with the clean-up, one second
MAX_SETS = 512  # distinct sets of characters; no person writes a regex with more
MAX_NODES = 400_000  # regexes built on the way, about 300 bytes each: it limits memory if states are few but large

MAX_CODE_POINT = 0x10FFFF
LINE_FEED = 0x0A

Ranges = tuple[tuple[int, int], ...]  # characters as sorted, disjoint code points, both ends included

# What is before or after a place.
NOTHING, OTHER, WORD = range(3)
ALL_CONTEXTS = (1 << 9) - 1  # bit 3 * before + after


def contexts(holds: Callable[[int, int], bool]) -> int:
    """Return the bits of the places where `holds(before, after)`."""
    return sum(1 << (3 * before + after) for before in range(3) for after in range(3) if holds(before, after))


class BudgetError(Exception):
    """A limit of states, memory or time was reached before the answer was known. Any method may raise it."""


class Alphabet:
    """The classes of characters that some sets distinguish; a line has no line feed.

    `word` has the word characters of `\\b`, if an assertion occurs. The attribute `bits` has the bits of the classes of
    each set, `full` those of all. `samples` has a character of each class, a readable one if the class has any.
    """

    def __init__(self, sets: Iterable[Ranges], word: Ranges = ()) -> None:
        distinct = [*dict.fromkeys([*sets, word])]
        if len(distinct) > MAX_SETS:
            raise BudgetError(f"more than {MAX_SETS} different characters and sets")
        ends = {end for ranges in distinct for low, high in ranges for end in (low, high + 1)}
        cuts = sorted(ends | {0, LINE_FEED, LINE_FEED + 1, MAX_CODE_POINT + 1})
        members = [0] * len(cuts)  # for each piece from a cut to the next, bits of the sets that it is in
        for number, ranges in enumerate(distinct):
            for low, high in ranges:
                for piece in range(bisect_left(cuts, low), bisect_left(cuts, high + 1)):
                    members[piece] |= 1 << number
        samples: dict[int, str] = {}  # by the sets that a class is in
        for member, (start, end) in zip(members, pairwise(cuts), strict=False):
            if start != LINE_FEED:
                low = max(start, ord("!"))
                sample = chr(low if low < end and low <= ord("~") else start)
                if member not in samples or (_is_readable(sample) and not _is_readable(samples[member])):
                    samples[member] = sample
        self.samples = list(samples.values())
        self.full = (1 << len(samples)) - 1
        bits = [0] * len(distinct)
        for index, member in enumerate(samples):
            for number in _places(member):
                bits[number] |= 1 << index
        self.bits = dict(zip(distinct, bits, strict=True))
        self.word = self.bits[word]


def _places(bits: int) -> Iterator[int]:
    while bits:
        yield (bits & -bits).bit_length() - 1
        bits &= bits - 1


def _is_readable(char: str) -> bool:
    return "!" <= char <= "~"


# Kinds of a node.
CHARS, ASSERT, CONCAT, OR, AND, NOT, LOOP = range(7)


@dataclass(eq=False, slots=True)
class Node:
    """A regex. Regexes that simple rules recognise as equal are the same object.

    Its parts are, for CHARS, bits of classes; ASSERT, bits of contexts; CONCAT, OR, AND, NOT, nodes; LOOP, a node, and
    the lowest and highest number of rounds (None: no limit).
    """

    kind: int
    parts: tuple
    index: int
    null: int  # bits of the contexts in which it matches the empty string
    looks_around: bool  # whether it contains an assertion


Partition = list[tuple[int, Node]]  # bits of classes -> the state that they lead to; together all classes
State = tuple[Node, int]  # a regex, and what is before it


class Difference(NamedTuple):
    """A line that only one of two regexes matches, and whether that is the first regex."""

    line: str
    is_of_first: bool


class Automaton:
    """Regexes over one alphabet, and the regex to which each character leads.

    It gives up at the deadline, in `time.thread_time()` seconds.
    """

    def __init__(self, alphabet: Alphabet, deadline: float) -> None:
        self.alphabet, self.deadline = alphabet, deadline
        self._nodes: dict[tuple, Node] = {}
        self._moves: dict[State, Partition] = {}
        self._num_ticks = 0
        self.nothing = self.chars(0)
        self.empty = self.assertion(ALL_CONTEXTS)
        self.anything = self._node(LOOP, (self.chars(alphabet.full), 0, None), ALL_CONTEXTS)

    def _tick(self) -> None:
        self._num_ticks += 1
        if self._num_ticks % 64 == 0 and time.thread_time() > self.deadline:
            raise BudgetError("the time ran out")

    def _node(self, kind: int, parts: tuple, null: int) -> Node:
        self._tick()
        key = (kind, *(part.index if isinstance(part, Node) else part for part in parts))
        node = self._nodes.get(key)
        if node is None:
            if len(self._nodes) >= MAX_NODES:
                raise BudgetError("the regexes on the way grew too many")
            looks = kind == ASSERT and null not in (0, ALL_CONTEXTS)
            looks = looks or any(part.looks_around for part in parts if isinstance(part, Node))
            node = self._nodes[key] = Node(kind, parts, len(self._nodes), null, looks)
        return node

    # ---- building ----

    def chars(self, bits: int) -> Node:
        """Match one character of these classes."""
        return self._node(CHARS, (bits,), 0)

    def assertion(self, where: int) -> Node:
        """Match the empty string in these contexts."""
        return self._node(ASSERT, (where,), where) if where else self.nothing

    def concat(self, first: Node, second: Node) -> Node:
        """Match one after the other."""
        if self.nothing in (first, second):
            return self.nothing
        if first is self.empty:
            return second
        if second is self.empty:
            return first
        if second is self.anything and first.null == ALL_CONTEXTS:
            return second
        if first is self.anything and _begins_with(second, first):
            return second
        pieces = []  # concatenations lean to the right, so that equal ones are found
        while first.kind == CONCAT:
            pieces.append(first.parts[0])
            first = first.parts[1]
        node = self._node(CONCAT, (first, second), first.null & second.null)
        for piece in reversed(pieces):
            node = self._node(CONCAT, (piece, node), piece.null & node.null)
        return node

    def either(self, parts: Iterable[Node]) -> Node:
        """Match any of the parts."""
        found = self._flat(OR, parts)
        if self.anything in found or any(part.kind == NOT and part.parts[0] in found for part in found):
            return self.anything
        bits = _union(part.parts[0] for part in found if part.kind == CHARS)
        where = _union(part.parts[0] for part in found if part.kind == ASSERT)
        rest = [part for part in found if part.kind not in (CHARS, ASSERT) and not self._is_within(part, found)]
        if where & ~_union(part.null for part in rest):
            rest.append(self.assertion(where))
        if bits:
            rest.append(self.chars(bits))
        if len(rest) < 2:
            return rest[0] if rest else self.nothing
        return self._node(OR, tuple(sorted(rest, key=attrgetter("index"))), _union(part.null for part in rest))

    def both(self, parts: Iterable[Node]) -> Node:
        """Match all of the parts."""
        found = self._flat(AND, parts)
        found.pop(self.anything, None)
        if self.nothing in found or any(part.kind == NOT and part.parts[0] in found for part in found):
            return self.nothing
        if len(found) < 2:
            return next(iter(found), self.anything)
        null = reduce(and_, (part.null for part in found))
        bits = reduce(and_, (part.parts[0] for part in found if part.kind == CHARS), self.alphabet.full)
        kinds = {part.kind for part in found}
        if ASSERT in kinds:
            return self.assertion(null)
        if CHARS in kinds:
            if not bits:
                return self.nothing
            found = {part: None for part in found if part.kind != CHARS} | {self.chars(bits): None}
            if len(found) < 2:
                return self.chars(bits)
        return self._node(AND, tuple(sorted(found, key=attrgetter("index"))), null)

    def negate(self, part: Node) -> Node:
        """Match every line that the part does not match."""
        if part.kind == NOT:
            return part.parts[0]
        if part is self.anything:
            return self.nothing
        if part is self.nothing:
            return self.anything
        return self._node(NOT, (part,), ALL_CONTEXTS & ~part.null)

    def loop(self, part: Node, fewest: int, most: int | None) -> Node:
        """Match the part `fewest` to `most` times in a row."""
        if part.null == ALL_CONTEXTS:
            fewest = 0
        if most == 0 or part is self.empty or (part is self.nothing and fewest == 0):
            return self.empty
        if part is self.nothing or (fewest, most) == (1, 1):
            return part
        if part is self.anything or (part.kind == LOOP and part.parts[1:] == (0, None)):
            return part
        if part.kind == CHARS and part.parts[0] == self.alphabet.full and (fewest, most) == (0, None):
            return self.anything
        return self._node(LOOP, (part, fewest, most), ALL_CONTEXTS if fewest == 0 else part.null)

    def _flat(self, kind: int, parts: Iterable[Node]) -> dict[Node, None]:
        found: dict[Node, None] = {}
        for part in parts:
            found |= dict.fromkeys(part.parts) if part.kind == kind else {part: None}
        if kind == OR:
            found.pop(self.nothing, None)
        return found

    def _is_within(self, part: Node, found: dict[Node, None]) -> bool:
        """Whether `part` is w.*y and .*y is in `found`, so that `part` adds nothing."""
        for _ in range(64):  # limited, because a regex of thousands of characters would be searched for each of them
            if part.kind != CONCAT:
                return False
            part = part.parts[1]
            if part in found and _begins_with(part, self.anything):
                return True
        return False

    # ---- derivatives ----

    def moves(self, node: Node, before: int) -> Partition:
        """Return the derivative of a node by each class, with `before` before it."""
        root = _state(node, before)
        stack = [root]
        while stack:
            each, context = stack[-1]
            if stack[-1] in self._moves:
                stack.pop()
                continue
            self._tick()
            parts = [_state(part, context) for part in self._reads(each, context)]
            if needed := [part for part in parts if part not in self._moves]:
                stack += needed
            else:
                self._moves[stack.pop()] = self._derive(each, context)
        return self._moves[root]

    def _known(self, node: Node, before: int) -> Partition:
        return self._moves[_state(node, before)]

    def _empty_on(self, node: Node, before: int) -> int:
        """Return the classes before which the node matches the empty string."""
        word = self.alphabet.word
        bits = word if node.null >> (3 * before + WORD) & 1 else 0
        return bits | (self.alphabet.full & ~word if node.null >> (3 * before + OTHER) & 1 else 0)

    def _reads(self, node: Node, before: int) -> tuple[Node, ...]:
        """Return the parts whose derivatives are needed for the node's."""
        if node.kind in (CHARS, ASSERT):
            return ()
        if node.kind == CONCAT:
            return node.parts if self._empty_on(node.parts[0], before) else node.parts[:1]
        return node.parts[:1] if node.kind == LOOP else node.parts

    def _derive(self, node: Node, before: int) -> Partition:
        full = self.alphabet.full
        if node.kind == CHARS:
            bits = node.parts[0]
            return [(each, to) for each, to in ((bits, self.empty), (full & ~bits, self.nothing)) if each]
        if node.kind == ASSERT:
            return [(full, self.nothing)]
        if node.kind == NOT:
            return [(bits, self.negate(to)) for bits, to in self._known(node.parts[0], before)]
        if node.kind in (OR, AND):
            join = self.either if node.kind == OR else self.both
            return self._join([self._known(part, before) for part in node.parts], join)
        if node.kind == LOOP:
            return self._derive_loop(node, before)
        return self._derive_concat(node, before)

    def _derive_concat(self, node: Node, before: int) -> Partition:
        first, second = node.parts
        moves = _merged((bits, self.concat(to, second)) for bits, to in self._known(first, before))
        skips = self._empty_on(first, before)
        if not skips:
            return moves
        past = [(bits & skips, to) for bits, to in self._known(second, before) if bits & skips]
        if rest := self.alphabet.full & ~skips:
            past.append((rest, self.nothing))
        return self._join([moves, past], self.either)

    def _derive_loop(self, node: Node, before: int) -> Partition:
        """Return the derivative of a loop: one round less. If a round may be empty, all required rounds may be."""
        part, fewest, most = node.parts
        fewer = None if most is None else most - 1
        skips = self._empty_on(part, before) if fewest > 1 else 0
        moves = []
        for bits, to in self._known(part, before):
            for each, least in ((bits & ~skips, max(fewest - 1, 0)), (bits & skips, 0)):
                if each:
                    moves.append((each, self.concat(to, self.loop(part, least, fewer))))
        return _merged(moves)

    def _join(self, partitions: Sequence[Partition], join: Callable[[Iterable[Node]], Node]) -> Partition:
        blocks: list[tuple[int, tuple[Node, ...]]] = [(self.alphabet.full, ())]
        for partition in partitions:
            self._tick()
            blocks = [
                (bits & more, (*targets, to)) for bits, targets in blocks for more, to in partition if bits & more
            ]
        return _merged((bits, join(targets)) for bits, targets in blocks)

    # ---- comparing ----

    def difference(self, left: Node, right: Node) -> Difference | None:
        """Return a line that one of two regexes matches and the other does not; None if there is none."""
        merged: dict[State, State] = {}
        steps: list[tuple[int, int]] = [(-1, -1)]  # for each pair found: the pair before it, the classes between them
        queue: deque[tuple[State, State, int]] = deque([(_state(left, NOTHING), _state(right, NOTHING), 0)])
        word = self.alphabet.word
        while queue:
            one, other, step = queue.popleft()
            if not _merge(merged, one, other):
                continue
            if len(merged) > MAX_STATES:
                raise BudgetError(f"more than {MAX_STATES:,} states")
            if _accepts(one) != _accepts(other):
                return Difference(self._spell(steps, step), _accepts(one))
            for (bits, to_one), (more, to_other) in product(self.moves(*one), self.moves(*other)):
                if to_one is to_other:
                    continue
                for before, classes in ((WORD, bits & more & word), (OTHER, bits & more & ~word)):
                    if classes:
                        steps.append((step, classes))
                        queue.append((_state(to_one, before), _state(to_other, before), len(steps) - 1))
        return None

    def _spell(self, steps: Sequence[tuple[int, int]], step: int) -> str:
        """Return a line that takes these steps, of readable characters where there are any."""
        line = []
        while step:
            step, classes = steps[step]
            samples = [self.alphabet.samples[index] for index in _places(classes)]
            line.append(next(filter(_is_readable, samples), samples[0]))
        return "".join(reversed(line))


def _state(node: Node, before: int) -> State:
    return node, before if node.looks_around else NOTHING


def _accepts(state: State) -> bool:
    node, before = state
    return bool(node.null >> (3 * before + NOTHING) & 1)


def _union(values: Iterable[int]) -> int:
    return reduce(or_, values, 0)


def _begins_with(node: Node, first: Node) -> bool:
    return node is first or (node.kind == CONCAT and node.parts[0] is first)


def _merged(moves: Iterable[tuple[int, Node]]) -> Partition:
    found: dict[Node, int] = {}
    for bits, to in moves:
        found[to] = found.get(to, 0) | bits
    return [(bits, to) for to, bits in found.items()]


def _merge(merged: dict[State, State], one: State, other: State) -> bool:
    """Put two states into the same class; return whether they were in different classes before."""
    root, other_root = _root(merged, one), _root(merged, other)
    merged[root] = other_root
    return root != other_root


def _root(merged: dict[State, State], state: State) -> State:
    path = [state]
    while (parent := merged.get(path[-1], path[-1])) != path[-1]:
        path.append(parent)
    for each in path:
        merged[each] = path[-1]
    return path[-1]
