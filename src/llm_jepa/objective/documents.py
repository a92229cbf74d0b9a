"""The documents of a pair: which tokens may attend to each other, which have labels, where each embedding is read.

They are described only here. `layout.py` puts the documents into rows, and `data inspect` draws them.
Letters: k [PRED] tokens. The first document is the pair's own sequence:

    text | bridge | code <end> | [PRED] x k      [PRED] has the positions right after the text, and reads only the text

A view that cannot be read in this sequence is a document of its own, with positions from 0:

    text view | [PRED] x k      a text view that is rendered separately, such as by a chat template; [PRED] moves here
    code view | [PRED] x k      only the code, without its end token, if its encoding gets gradients
    [PRED] x k | view           `jepa_pred_position: prepend`; Enc reads the view in another document, without [PRED]
    view                        a target that is encoded without gradient
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, IntEnum

from .config import JEPAConfig
from .pair import Pair

IGNORED = -100  # the label that cross-entropy skips, as everywhere in PyTorch


class Role(IntEnum):
    """What a token is.

    A [PRED] after a view has the name of that view, and reads no other view. A [PRED] at the start of a document is
    read by all tokens after it.
    """

    TEXT = 0
    CODE = 1
    BRIDGE = 2
    TEXT_PRED = 3
    CODE_PRED = 4
    LEADING_PRED = 5


# This role and higher ones are [PRED]s. A [PRED]'s role minus this is the role of the view that it follows and reads.
PRED_OFFSET = Role.TEXT_PRED - Role.TEXT

NAMES = {Role.TEXT: "text", Role.CODE: "code"}
SOURCES = {"text_to_code": (Role.TEXT,), "code_to_text": (Role.CODE,), "both": (Role.TEXT, Role.CODE)}
"""The views that predict, by `jepa_direction`."""


class Where(Enum):
    """Which forward reads a document."""

    OWN = "the pair's own sequence, in the main rows"
    BESIDE = "next to it in the main rows"
    TARGET = "the rows of targets, read without gradient"
    PROBE = "the rows of a probe, read with the model's weights fixed"


@dataclass
class Document:
    """Tokens that may attend to each other, and to no other tokens.

    Attributes:
        tokens: Token ids, without [PRED].
        role: What each token is.
        where: Which forward reads the document.
        pred: Positions of its [PRED] tokens; empty if it has none. They are after the tokens. If the positions start
            at 0, they are before the tokens, and the positions of the tokens start after theirs.
        read_as: Where embeddings are read: `text` and `code` (Enc), `text_pred` and `code_pred` (Pred), each with the
            index of its token in the document, [PRED] included.
        labels: A token's own id if it is under cross-entropy, else IGNORED.
    """

    tokens: list[int]
    role: list[Role]
    where: Where
    pred: range = range(0)
    read_as: dict[str, int] = field(default_factory=dict)
    labels: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.labels = self.labels or [IGNORED] * len(self.tokens)

    @property
    def pred_leads(self) -> bool:
        """Whether [PRED] is before the tokens."""
        return len(self.pred) > 0 and self.pred.start == 0

    @property
    def pred_role(self) -> Role:
        """The role of its [PRED] tokens."""
        return Role.LEADING_PRED if self.pred_leads else Role(self.role[0] + PRED_OFFSET)

    @property
    def positions(self) -> range:
        """Positions of the tokens, without [PRED]."""
        first = len(self.pred) if self.pred_leads else 0
        return range(first, first + len(self.tokens))

    def __len__(self) -> int:
        """Number of tokens, [PRED] included."""
        return len(self.tokens) + len(self.pred)


def documents_of(pair: Pair, config: JEPAConfig, *, targets_apart: bool = False) -> list[Document]:
    """Return the documents of a pair, its own sequence first.

    Args:
        pair: The pair.
        config: The objective.
        targets_apart: Encode the targets in their own documents even if the main rows have them already.
    """
    own = _own_sequence(pair, config)
    if not config.uses_views or not pair.use_jepa:
        return [own]
    views = {Role.TEXT: pair.text_view, Role.CODE: pair.code_view}
    sources = SOURCES[config.jepa_direction]
    targets = [target for source, target in ((Role.TEXT, Role.CODE), (Role.CODE, Role.TEXT)) if source in sources]
    beside = _views_in_the_main_rows(own, pair, config)
    if config.pred_leads or config.jepa_detach_backbone:
        where = Where.PROBE if config.jepa_detach_backbone else Where.BESIDE
        beside += [_read_by_pred(views[role], role, where, config) for role in sources]
    read = {name for document in (own, *beside) for name in document.read_as}
    if not read.issuperset(NAMES[role] for role in targets):
        targets_apart = True
    if targets_apart or config.jepa_target == "ema" or config.jepa_detach_backbone:
        beside += [_alone(views[role], role, Where.TARGET) for role in targets]
    return [own, *beside]


def _own_sequence(pair: Pair, config: JEPAConfig) -> Document:
    """Return text, bridge and code with their labels; the first token has none, because nothing predicts it."""
    tokens = [*pair.text_ids, *pair.bridge_ids, *pair.code_ids]
    role = [Role.TEXT] * len(pair.text_ids) + [Role.BRIDGE] * len(pair.bridge_ids) + [Role.CODE] * len(pair.code_ids)
    labels = [IGNORED] * len(tokens)
    if pair.use_ce:
        first = 1 if config.loss_on == "all" else len(tokens) - len(pair.code_ids)
        left_out = None if config.train_end_token else pair.code_ids[-1]
        labels[first:] = [IGNORED if token == left_out else token for token in tokens[first:]]
    return Document(tokens, role, Where.OWN, labels=labels)


def _views_in_the_main_rows(own: Document, pair: Pair, config: JEPAConfig) -> list[Document]:
    """Return the views that need gradients as documents; a text view that `own` begins with is read in `own`."""
    sources, shared = SOURCES[config.jepa_direction], config.jepa_target == "shared"
    follows = not config.pred_leads and not config.jepa_detach_backbone  # [PRED] is right after the view
    beside = []
    for role, view in ((Role.TEXT, pair.text_view), (Role.CODE, pair.code_view)):
        predicts = role in sources and follows
        is_target = len(sources) == 2 or role not in sources
        if role is Role.TEXT and pair.text_view_ids is None:
            document = own
            document.read_as["text"] = len(view) - 1
        elif predicts or (is_target and shared):
            document = _alone(view, role, Where.BESIDE)
            beside.append(document)
        else:
            continue
        if predicts:
            document.pred = range(len(view), len(view) + config.jepa_k)
            document.read_as[f"{NAMES[role]}_pred"] = (len(document) if config.jepa_k else len(view)) - 1
    return beside


def _alone(view: list[int], role: Role, where: Where) -> Document:
    return Document(view, [role] * len(view), where, read_as={NAMES[role]: len(view) - 1})


def _read_by_pred(view: list[int], role: Role, where: Where, config: JEPAConfig) -> Document:
    """Return a document of a view with [PRED] before or after it, in which only the prediction is read."""
    first = 0 if config.pred_leads else len(view)
    document = Document(view, [role] * len(view), where, pred=range(first, first + config.jepa_k))
    document.read_as = {f"{NAMES[role]}_pred": len(document) - 1}
    return document
