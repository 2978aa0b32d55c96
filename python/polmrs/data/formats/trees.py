"""Trees of messages, as OpenAssistant exports them: nested, or as flat rows that name their parents.

Sibling answers are ranked by people, rank 0 best. A tree gives a ranking for every question that has two ranked answers or
more, and is then a preference set; ``threads`` gives the conversations of its best answers, for fine-tuning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from polmrs.data.formats.fields import Fields, as_list, as_number, as_text
from polmrs.data.formats.format import Format
from polmrs.data.formats.turns import ROLES
from polmrs.data.messages import Message
from polmrs.data.records import LanguageModelling, Ranked, Record
from polmrs.data.rows import Fault, Row
from polmrs.errors import UsageError

DEPTH = 200


def _message(node: Any, depth: int) -> Message:
    if not isinstance(node, Mapping):
        raise UsageError(f"replies: expected messages, got {type(node).__name__}")
    if depth > DEPTH:
        raise UsageError(f"replies: nested deeper than {DEPTH}")
    role = ROLES.get(str(node.get("role")).lower())
    text = as_text("text", node.get("text"))
    if role is None:
        raise UsageError(f"role: {node.get('role')!r} is none of {', '.join(ROLES)}")
    if not text.strip():
        raise UsageError("text: empty")
    return Message.of(role, text)


def _replies(node: Mapping[str, Any]) -> list[Any]:
    found = as_list("replies", node.get("replies") or [])
    return [reply for reply in found if not (isinstance(reply, Mapping) and reply.get("deleted"))]


def _ranked(reply: Any) -> float | None:
    rank = reply.get("rank") if isinstance(reply, Mapping) else None
    return None if rank is None else as_number("rank", rank)


def rankings(root: Mapping[str, Any]) -> Iterator[Ranked]:
    """A ranking of the answers to every question of a tree with two ranked ones or more; the score is minus the rank.

    >>> tree = {"role": "prompter", "text": "?", "replies": [
    ...     {"role": "assistant", "text": "a", "rank": 1}, {"role": "assistant", "text": "b", "rank": 0}]}
    >>> [(one.answers[1][0].text, one.scores) for one in rankings(tree)]
    [('b', (-1.0, 0.0))]
    """
    pending: list[tuple[Mapping[str, Any], tuple[Message, ...]]] = [(root, ())]
    while pending:
        node, before = pending.pop()
        path = (*before, _message(node, len(before)))
        replies = _replies(node)
        scored = [(reply, rank) for reply in replies if (rank := _ranked(reply)) is not None]
        answers = [(_message(reply, len(path)), rank) for reply, rank in scored]
        if len(answers) > 1 and all(turn.role == "assistant" for turn, _ in answers):
            yield Ranked(
                prompt=path,
                answers=tuple((turn,) for turn, _ in answers),
                scores=tuple(0.0 - rank for _, rank in answers),
                meta=_notes(node),
            )
        pending += [(reply, path) for reply in reversed(replies)]


def threads(root: Mapping[str, Any]) -> Iterator[LanguageModelling]:
    """The conversations of a tree that take the best answer every time; a question takes each of its follow-ups.

    Without ranks the first answer is the best. Threads that end in a question lose it.
    """
    pending: list[tuple[Mapping[str, Any], tuple[Message, ...]]] = [(root, ())]
    while pending:
        node, before = pending.pop()
        path = (*before, _message(node, len(before)))
        replies = _replies(node)
        if path[-1].role != "assistant" and replies:
            ranks = [rank if (rank := _ranked(reply)) is not None else float("inf") for reply in replies]
            replies = [replies[ranks.index(min(ranks))]]
        if replies:
            pending += [(reply, path) for reply in reversed(replies)]
            continue
        turns = path if path[-1].role == "assistant" else path[:-1]
        if turns:
            yield LanguageModelling(text=turns)


def _conversations(root: Mapping[str, Any]) -> Iterator[Record]:
    found = list(dict.fromkeys(thread.text for thread in threads(root)))
    if not found:
        raise UsageError("no question of the tree is answered")
    for text in found:
        yield LanguageModelling(text=text, meta=_notes(root))


def _notes(node: Mapping[str, Any]) -> dict[str, Any]:
    return {key: node[key] for key in ("lang", "synthetic", "model_name") if node.get(key) is not None}


def _rankings(root: Mapping[str, Any]) -> Iterator[Record]:
    found = list(rankings(root))
    if not found:
        raise UsageError(
            "no question of the tree has two ranked answers; kind language_modelling takes its conversations"
        )
    yield from found


def _tree_rankings(row: Fields) -> Iterator[Record]:
    yield from _rankings(row.value("prompt"))


def _node_rankings(row: Fields) -> Iterator[Record]:
    yield from _rankings(row.row)


def _tree_threads(row: Fields) -> Iterator[Record]:
    yield from _conversations(row.value("prompt"))


def _node_threads(row: Fields) -> Iterator[Record]:
    yield from _conversations(row.row)


def nested(rows: Sequence[Row]) -> Iterator[Row | Fault]:
    """Flat messages as trees: each among the replies of its parent. One whose parent is not there is a root of its own.

    Args:
        rows: Messages with ``message_id`` and ``parent_id``; those that are nested already stay as they are.
    """
    nodes: dict[Any, dict[str, Any]] = {}
    kept: list[Row] = []
    for row in rows:
        key = row.value.get("message_id") if isinstance(row.value, Mapping) else None
        if not isinstance(key, str):
            yield Fault(row.origin, "message_id: missing")
        elif key in nodes:
            yield Fault(row.origin, f"message_id: {key} is there already")
        else:
            nodes[key] = {**row.value, "replies": list(row.value.get("replies") or [])}
            kept.append(row)
    roots, reached = [], set()
    for row in kept:
        key, parent = row.value["message_id"], row.value.get("parent_id")
        if parent in nodes:
            nodes[parent]["replies"].append(nodes[key])
        else:
            roots.append(Row(row.origin, nodes[key]))
    pending = [root.value for root in roots]
    while pending:
        node = pending.pop()
        reached.add(node.get("message_id"))
        pending += [
            reply for reply in node["replies"] or () if isinstance(reply, dict) and "replies" in reply
        ]
    yield from roots
    for row in kept:
        if row.value["message_id"] not in reached:
            yield Fault(row.origin, "parent_id: the message descends from itself")


FORMATS = (
    Format(
        name="oasst_tree",
        of="OpenAssistant's trees",
        paths=("message_tree_id", "prompt.text", "prompt.role"),
        kind=Ranked,
        read=_tree_rankings,
        other={LanguageModelling: _tree_threads},
    ),
    Format(
        name="oasst_messages",
        of="OpenAssistant's messages, flat or nested",
        paths=("message_id", "text", "role"),
        kind=Ranked,
        read=_node_rankings,
        other={LanguageModelling: _node_threads},
        gather=nested,
    ),
)
