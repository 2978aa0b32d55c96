"""``polmrs train``: a run as one configuration. The dataclass below is its only definition, of YAML, ``--set`` and JSON Schema.

| verb       | learns                | records                                                  | objectives |
|------------|-----------------------|----------------------------------------------------------|------------|
| `sft`      | a language model      | prompt-completion or text; others become the former      | `sft`; `continual`, with `replay` |
| `classify` | a head of C outputs   | any text, with its class in the column ``label``         | `classification` |
| `reward`   | a head of one output  | pairs, rankings; rankings alone for the last three       | `bradley_terry`, `plackett_luce`, `regression`, `likert` |
| `prm`      | a head for each step  | steps with labels                                        | `process_reward` |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

from polmrs.align import BradleyTerry, Likert, PlackettLuce, ProcessReward, Regression
from polmrs.config import into, nearest, plain, schema
from polmrs.data.encoding import TooLong
from polmrs.errors import ConfigError
from polmrs.finetune import SFT, Classification, Continual
from polmrs.train.adapter import LoRA
from polmrs.train.objective import Objective
from polmrs.train.optimizers import Optim
from polmrs.train.schedules import Schedule, Shape
from polmrs.train.step import Precision

Files: TypeAlias = str | list[str]

OBJECTIVES: dict[str, dict[str, Any]] = {
    "sft": {"sft": SFT, "continual": Continual},
    "classify": {"classification": Classification},
    "reward": {
        "bradley_terry": BradleyTerry,
        "plackett_luce": PlackettLuce,
        "regression": Regression,
        "likert": Likert,
    },
    "prm": {"process_reward": ProcessReward},
}
"""What each verb can learn by; the first unless ``objective.name`` says another."""


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Examples that are not trained on: files of their own, or a share of the data.

    >>> HeldOut(share=0.1).every
    50
    """

    data: Files | None = None
    share: float | None = None
    """Of the data, drawn by the seed."""
    every: int = 50
    """Steps between evaluations."""
    patience: int | None = None
    metric: str = "loss"
    micro: int = 8

    def __post_init__(self) -> None:
        if (self.data is None) == (self.share is None):
            raise ConfigError("held_out: data or share, one of them")
        if self.share is not None and not 0 < self.share < 1:
            raise ConfigError(f"held_out.share: {self.share} is not in (0, 1)")


@dataclass(frozen=True, kw_only=True)
class Replay:
    """General examples among those of the domain, against forgetting: continual pre-training (arXiv:2403.08763).

    >>> Replay(data="general.jsonl").share
    0.05
    """

    data: Files
    share: float = 0.05
    """Of the examples of a step, over steps; the paper's for a weak shift of distribution."""
    format: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ConfigError(f"replay.share: {self.share} is not in (0, 1)")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A run of ``polmrs train``.

    >>> Recipe(model="out/base", data="train.jsonl", to="runs/sft", lr=5e-5, steps=300).batch
    8
    """

    method: Literal["sft", "classify", "reward", "prm"] = "sft"
    """The verb; where a file says one, it must be the command's."""
    model: str
    """A folder or a name of the Hub."""
    data: Files
    """Files of any format that ``polmrs.data.read`` knows."""
    to: str
    """The folder of the run."""
    lr: float
    steps: int | None = None
    epochs: int | None = None
    """Times through the data; one unless there are steps."""
    batch: int = 8
    """Examples of an optimizer step, of all ranks."""
    micro: int | None = None
    micro_tokens: int | None = None
    objective: Mapping[str, Any] = field(default_factory=dict)
    """Its name, where a verb has several, and its own fields."""
    format: str | None = None
    policy: Literal["strict", "repair", "skip"] = "strict"
    """What becomes of rows that do not fit their format."""
    text: Literal["document", "paragraph", "line"] = "document"
    max_length: int | None = None
    too_long: TooLong = "refuse"
    label: str = "label"
    """The column of the class, for ``classify``."""
    classes: list[str] | None = None
    """Their order; that of the alphabet unless given."""
    replay: Replay | None = None
    """Makes ``sft`` continual pre-training, in which domain and replayed text are measured apart."""
    lora: LoRA | None = None
    """Trains an adapter, and saves it alone."""
    held_out: HeldOut | None = None
    optim: str | Optim = "adamw"
    schedule: Shape | Schedule = "constant"
    clip: float | None = 1.0
    precision: Precision | None = None
    activation_checkpointing: bool = True
    average: float | None = None
    door: Literal["padded", "packed"] = "padded"
    attention: str | None = None
    engine: Literal["one", "ddp", "fsdp2"] | None = None
    num_threads: int | None = None
    seed: int = 0
    shuffle: bool = True
    save_every: int | None = None
    keep: int = 2
    track: list[Literal["tensorboard", "wandb", "trackio"]] = field(default_factory=list)
    """Where metrics go beside ``metrics.jsonl``."""

    def __post_init__(self) -> None:
        if self.steps is not None and self.epochs is not None:
            raise ConfigError("steps, epochs: one or the other")
        for name in ("steps", "epochs", "batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}: {value} is not 1 or more")

    @property
    def objective_name(self) -> str:
        """As given, or the verb's first; ``continual`` where there is ``replay``.

        Raises:
            ConfigError: The verb has none of that name, or it and ``replay`` do not go together.
        """
        known = OBJECTIVES[self.method]
        if self.replay is not None and "continual" not in known:
            raise ConfigError(f"replay: for sft, not for {self.method}")
        name = self.objective.get("name", next(iter(known)) if self.replay is None else "continual")
        if name not in known:
            raise ConfigError(
                f"objective.name: {name!r} is none of {self.method}'s{nearest(str(name), known)}"
            )
        if (name == "continual") != (self.replay is not None):
            raise ConfigError(f"objective.name: {name!r}; continual, and no other, goes with replay")
        return str(name)

    @property
    def learned_by(self) -> Objective:
        """The objective.

        Raises:
            ConfigError: As ``objective_name``, or it has no such field.
        """
        fields = {key: value for key, value in self.objective.items() if key != "name"}
        made: Objective = into(OBJECTIVES[self.method][self.objective_name], fields, "objective")
        return made

    @property
    def resolved(self) -> dict[str, Any]:
        """Every key with its value, as it goes into ``run.yml``."""
        objective = {"name": self.objective_name, **asdict(self.learned_by)}  # type: ignore[call-overload]
        return plain(self) | {"objective": objective}  # type: ignore[no-any-return]


def recipe(method: str, values: Mapping[str, Any]) -> Recipe:
    """A recipe of a verb from YAML's values.

    Raises:
        ConfigError: A key is wrong; the message names the nearest right one.

    >>> recipe("sft", {"model": "m", "data": "d.jsonl", "to": "out", "learning_rate": 1e-5})
    Traceback (most recent call last):
    ...
    polmrs.errors.ConfigError: learning_rate: no such key; known: activation_checkpointing, ...
    """
    said = values.get("method", method)
    if said != method:
        raise ConfigError(f"method: the file says {said!r}, the command {method!r}")
    made = into(Recipe, {**values, "method": method})
    _ = made.learned_by
    return made


def recipe_schema(method: str | None = None) -> dict[str, Any]:
    """The JSON Schema of a recipe, of one verb or of any."""
    found = schema(Recipe)
    of = [_objective_schema(verb) for verb in OBJECTIVES if method in (None, verb)]
    found["properties"]["objective"] = {"anyOf": [one for group in of for one in group]}
    if method is not None:
        found["properties"]["method"] = {"const": method}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "polmrs train", **found}


def _objective_schema(verb: str) -> list[dict[str, Any]]:
    found = []
    for i, (name, kind) in enumerate(OBJECTIVES[verb].items()):
        one = schema(kind)
        one["properties"] = {"name": {"const": name}, **one["properties"]}
        found.append(one if i == 0 else one | {"required": ["name"]})
    return found
