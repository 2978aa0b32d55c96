"""``polmrs train sft|classify|reward|prm`` and ``polmrs schema train``."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from polmrs import config
from polmrs.data.ragged import Batch
from polmrs.engine import engine
from polmrs.errors import ConfigError, NotFoundError, OutputExistsError, UsageError
from polmrs.models import Packed, Padded, Policy, load
from polmrs.models.loading import auto_class, tokenizer
from polmrs.train.estimate import estimate
from polmrs.train.evaluation import Evaluation
from polmrs.train.loop import Run, fit
from polmrs.train.optimizers import Optim
from polmrs.train.recipe import OBJECTIVES, Recipe, recipe, recipe_schema
from polmrs.train.record import holds_run
from polmrs.train.supply import Supply, head_of, micro_batches, prepare
from polmrs.train.trackers import tracker

log = logging.getLogger("polmrs")


def run(arguments: Sequence[str], *, color: bool = False) -> str:
    """Runs ``polmrs train ...`` and gives what it prints.

    Args:
        arguments: What follows ``polmrs train``.
        color: Whether a dry run colours its batch.

    Raises:
        PolmrsError: As ``recipe``, ``prepare`` and ``polmrs.fit``.
    """
    asked = _parser().parse_args(arguments)
    values = _values(asked.config)
    for setting in asked.set:
        config.put(values, setting)
    made = recipe(asked.method, values)
    if asked.dry_run:
        return look(made, color=color)
    found = train(made, resume=asked.resume)
    last = found.rows[-1] if found.rows else {}
    if asked.json:
        return json.dumps({"schema": "polmrs.train/1", "to": made.to, "steps": found.steps, "last": last})
    shown = "  ".join(f"{k} {v:.4f}" for k, v in last.items() if k.endswith(("loss", "accuracy")))
    return f"{made.to}: {found.steps} steps, ended by {found.stopped}  {shown}"


def schema(arguments: Sequence[str], *, color: bool = False) -> str:
    """``polmrs schema train [VERB]``, which has no colors."""
    parser = argparse.ArgumentParser(prog="polmrs schema train", allow_abbrev=False)
    parser.add_argument("method", nargs="?", choices=OBJECTIVES)
    return json.dumps(recipe_schema(parser.parse_args(arguments).method), indent=2)


def train(of: Recipe, *, resume: bool = False) -> Run:
    """A run from its recipe: data, policy, ``fit``, ``run.yml`` and ``loss.png`` in its folder."""
    home, folder = engine(of.engine), Path(of.to)
    if not resume and holds_run(folder):
        raise OutputExistsError(
            f"to: {folder} holds a run; go on with it by --resume, or name another folder"
        )
    tokens = _tokenizer(of)
    made = prepare(of, tokens, _context(of))
    head = head_of(of, made.classes)
    door = Packed() if of.door == "packed" else Padded(pad_id=tokens.pad_token_id or 0)
    policy = load(of.model, head=head, door=door, attention=of.attention, seed=of.seed)
    if of.lora is not None:
        policy = Policy(of.lora.on(policy.model, head, of.seed), policy.tokenizer, door=door)
    if made.classes:
        policy.config.id2label = dict(enumerate(made.classes))
        policy.config.label2id = {name: i for i, name in enumerate(made.classes)}
    listeners = []
    if home.rank == 0:
        sys.stderr.write(f"{made.account}\n")
        folder.mkdir(parents=True, exist_ok=True)
        resolved = of.resolved | {"classes": list(made.classes) or None}
        (folder / "run.yml").write_text(config.dumps(resolved), encoding="utf-8")
        listeners = [tracker(name, folder, resolved) for name in of.track]
    held = of.held_out
    evaluation = None
    if held is not None:
        evaluation = Evaluation(
            examples=made.held_out,
            every=held.every,
            patience=held.patience,
            metric=held.metric,
            micro=held.micro,
        )

    found = fit(
        policy,
        made.epochs(of),
        of.learned_by,
        steps=made.steps(of),
        lr=of.lr,
        optim=of.optim,
        schedule=of.schedule,
        clip=of.clip,
        micro=of.micro,
        micro_tokens=of.micro_tokens,
        precision=of.precision,
        activation_checkpointing=of.activation_checkpointing,
        evaluation=evaluation,
        average=of.average,
        engine=home,
        num_threads=of.num_threads,
        seed=of.seed,
        to=folder,
        save_every=of.save_every,
        keep=of.keep,
        resume=resume,
        listeners=listeners,
    )
    if home.rank == 0:
        _draw(found, folder)
    return found


def look(of: Recipe, *, color: bool = False) -> str:
    """What a run would do: how the data was read, its first batch, steps, tokens, and an estimate of memory. Loads no weights."""
    from polmrs.data.picture import drawn

    tokens = _tokenizer(of)
    made = prepare(of, tokens, _context(of))
    steps, world = made.steps(of), engine(of.engine).world
    total = sum(
        sum(len(one.ids) for one in step) for _, step in zip(range(steps), made.epochs(of), strict=False)
    )
    largest = 0
    for micros in micro_batches(of, made.epochs(of), steps, world):
        largest = max(largest, *(_size(of, batch) for batch in micros))
    first = next(micro_batches(of, made.epochs(of), 1, world))[0]
    optim = Optim(name=of.optim) if isinstance(of.optim, str) else of.optim
    replayed = f", {len(made.replayed)} to replay" if made.replayed else ""
    memory = estimate(
        _meta(of, made),
        optim,
        tokens=largest,
        checkpointing=of.activation_checkpointing,
        half=of.precision is not None,
    )
    return "\n".join(
        [
            made.account,
            "",
            drawn(first, tokens, color=color),
            "",
            f"{len(made.train)} examples to train on, {len(made.held_out)} held out{replayed}",
            f"{steps} steps of {of.batch} examples, {total} tokens in all; {largest} in the largest micro-batch",
            f"about {memory}",
        ]
    )


def _size(of: Recipe, batch: Batch) -> int:
    """Tokens of a micro-batch as the model sees it."""
    return len(batch.ids) if of.door == "packed" else len(batch) * int(batch.lengths.max())


def _meta(of: Recipe, made: Supply) -> Any:
    """The model without weights."""
    import torch
    from transformers import AutoConfig

    head = head_of(of, made.classes)
    settings = AutoConfig.from_pretrained(of.model, trust_remote_code=False)
    kind, asked = auto_class(head)
    for key, value in asked.items():
        setattr(settings, key, value)
    with torch.device("meta"):
        model = kind.from_config(settings, dtype=torch.float32)
        return model if of.lora is None else of.lora.on(model, head, of.seed)


def _context(of: Recipe) -> int | None:
    from transformers import AutoConfig

    longest = getattr(
        AutoConfig.from_pretrained(of.model, trust_remote_code=False), "max_position_embeddings", None
    )
    return int(longest) if longest else None


def _tokenizer(of: Recipe) -> Any:
    if Path(of.model).is_absolute() and not (Path(of.model) / "config.json").is_file():
        raise NotFoundError(f"model: {of.model} is no folder with a config.json")
    found = tokenizer(of.model)
    if found is None:
        raise UsageError(f"model: {of.model} has no tokenizer, and the data is text")
    return found


def _draw(found: Run, folder: Path) -> None:
    from polmrs.train.plot import draw

    try:
        draw(found.rows, folder / "loss.png")
    except ModuleNotFoundError:
        log.warning("no loss.png: pip install 'polmrs[plots]'")


def _values(path: str | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        documents = config.load(path)
    except FileNotFoundError:
        raise NotFoundError(f"--config: there is no file {path}") from None
    if len(documents) > 1 or not all(isinstance(one, dict) for one in documents):
        raise ConfigError(f"{path}: one document of keys and values is expected")
    return documents[0] if documents else {}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="polmrs train",
        allow_abbrev=False,
        description="Train a model; `polmrs schema train` lists the keys.",
    )
    parser.add_argument("method", choices=OBJECTIVES, help="what to learn")
    parser.add_argument("--config", metavar="FILE", help="the recipe (YAML)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="one key of it, dotted"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="show a batch, steps, tokens and memory; train nothing"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser
