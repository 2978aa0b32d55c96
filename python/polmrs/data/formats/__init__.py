"""The table of formats of data sets; ``docs/data.md`` shows it."""

from polmrs.data.formats import dialogues, instructions, preferences, tasks, trees, trl
from polmrs.data.formats.format import Format

FORMATS: dict[str, Format] = {
    row.name: row
    for family in (trl, instructions, dialogues, preferences, trees, tasks)
    for row in family.FORMATS
}
"""Every format by name."""

__all__ = ["FORMATS", "Format"]
