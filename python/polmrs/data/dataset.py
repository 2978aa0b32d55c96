"""Records with the account of how they were read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, overload

from polmrs.data.conversion import convert
from polmrs.data.records import Record, named
from polmrs.data.rows import Fault
from polmrs.errors import ConfigError

if TYPE_CHECKING:
    from polmrs.data.encoding import Examples, TooLong
    from polmrs.data.scored import Scored

SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class Account:
    """What became of every row. Nothing is dropped that does not stand here."""

    formats: tuple[str, ...]
    """How each file was told, ``file: format: columns``."""
    rows: int
    rejected: tuple[Fault, ...] = ()
    """Rows that gave no record, and why."""
    repaired: tuple[Fault, ...] = ()
    """Rows that were changed, and how."""
    left_out: tuple[Fault, ...] = ()
    """Records that say nothing in the kind that was asked for."""

    def __str__(self) -> str:
        """A few lines: formats, counts, and the first places of each kind of fault."""
        lines = [*self.formats, f"{self.rows} rows"]
        for name in ("rejected", "repaired", "left_out"):
            lines += _listed(name.replace("_", " "), getattr(self, name))
        return "\n".join(lines)


def _listed(name: str, faults: Sequence[Fault]) -> list[str]:
    if not faults:
        return []
    places = [f"  {origin}: {reason}" for origin, reason in faults[:SHOWN]]
    more = len(faults) - SHOWN
    return [f"{len(faults)} {name}", *places, *([f"  and {more} more"] if more > 0 else [])]


@dataclass(frozen=True, kw_only=True)
class Dataset(Sequence[Record]):
    """Records of one kind, in the order of their rows. ``polmrs.data.read`` makes one."""

    records: tuple[Record, ...]
    kind: type[Record]
    account: Account

    def __len__(self) -> int:
        """How many records there are."""
        return len(self.records)

    @overload
    def __getitem__(self, at: int) -> Record: ...

    @overload
    def __getitem__(self, at: slice) -> Dataset: ...

    def __getitem__(self, at: int | slice) -> Record | Dataset:
        """A record, or a part of the data set with the account of the whole."""
        return replace(self, records=self.records[at]) if isinstance(at, slice) else self.records[at]

    def __iter__(self) -> Iterator[Record]:
        """The records."""
        return iter(self.records)

    def __str__(self) -> str:
        """How many records of what kind, and the account."""
        return f"{len(self)} records, {named(self.kind)}\n{self.account}"

    def to(self, kind: type[Record]) -> Dataset:
        """The records as another kind (``polmrs.data.conversion``). Those that say nothing there are in ``account.left_out``.

        Raises:
            UsageError: There is no way from one kind to the other.
            ConfigError: No record says anything there.

        >>> from polmrs.data import read
        >>> from polmrs.data.records import LanguageModelling
        >>> rows = [{"prompt": "2 + 2 =", "completion": c, "label": c == " 4"} for c in (" 4", " 5")]
        >>> text = read(rows).to(LanguageModelling)
        >>> text[0].text, text.account.left_out[0].origin
        ('2 + 2 = 4', 'rows:row 2')
        """
        if all(type(record) is kind for record in self.records):
            return self
        made: list[Record] = []
        left_out = list(self.account.left_out)
        for record in self.records:
            found = list(convert(record, kind))
            made += found
            if not found:
                left_out.append(Fault(record.origin, f"says nothing as {named(kind)}"))
        account = replace(self.account, left_out=tuple(left_out))
        if not made:
            raise ConfigError(f"no record is left as {named(kind)}\n{account}")
        return Dataset(records=tuple(made), kind=kind, account=account)

    def examples(
        self, tokenizer: Any, *, max_length: int | None = None, too_long: TooLong = "refuse"
    ) -> Examples:
        """The records as the token sequences that objectives take; see ``polmrs.data.encoding.examples``."""
        from polmrs.data.encoding import examples

        return examples(self.records, tokenizer, max_length=max_length, too_long=too_long)

    def scored_by(self, policy: Any, **settings: Any) -> Scored:
        """Steps of examples with a reference's log-probabilities; see ``polmrs.data.scored.scored_by``."""
        from polmrs.data.scored import scored_by

        return scored_by(self, policy, **settings)
