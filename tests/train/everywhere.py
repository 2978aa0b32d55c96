"""Every objective on a tiny model, trained the same way wherever it runs; as a program, one rank of two.

RANK=0 WORLD_SIZE=2 MASTER_ADDR=... python tests/train/everywhere.py OUT
"""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from models.made import examples, model
from polmrs import align, finetune
from polmrs.data.epochs import Epochs
from polmrs.data.scored import Scored
from polmrs.models import Packed, Padded, Policy, Scores, StepScores, Tokens
from polmrs.train import Evaluation, Reference, fit
from polmrs.train.adapter import LoRA
from polmrs.train.loop import model_weights
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

STEPS, LR = 3, {"sgd": 0.05, "adamw": 1e-3}


@dataclass(frozen=True)
class Case:
    objective: object
    auto: type = AutoModelForCausalLM
    outputs: int = 0
    sequences: int = 1
    extra: object = None
    """Adds to example i what the objective reads."""
    lora: LoRA | None = None
    follows: bool = False
    """Whether a reference keeps up with the policy, and examples carry what it says."""


def marked(**kinds):
    """A function that adds extras; each kind is a function of the example's number and its sequences."""

    def add(i, one):
        given = {kind: {k: f(i, one) for k, f in values.items()} for kind, values in kinds.items()}
        return replace(one, **given)

    return add


class Spread:
    """The variance of log-probabilities around their mean over the whole step, which is not differentiated."""

    def prepare(self, policy, batches, total):
        sums = [(float(policy.logps(b).mul(b.weights).sum()), float(b.weights.sum())) for b in batches]
        logp, weight = total([sum(part) for part in zip(*sums, strict=True)])
        return logp / weight

    def weights(self, batch):
        return {"spread": float(batch.weights.sum(dtype=torch.float64))}

    def __call__(self, policy, batch, shared, state):
        return {"spread": ((policy.logps(batch) - shared).square() * batch.weights).sum()}


class Leash(finetune.SFT):
    """Cross-entropy, and the squared distance from the reference's log-probabilities."""

    def weights(self, batch):
        return dict.fromkeys(("nll", "distance"), float(batch.weights.sum(dtype=torch.float64)))

    def __call__(self, policy, batch, shared, state):
        logps = policy.logps(batch)
        distance = (logps - batch.per_token["reference"]).square()
        return {"nll": -(logps * batch.weights).sum(), "distance": (distance * batch.weights).sum()}


def steps_of(i, one):
    labels = torch.full((len(one.ids),), -1.0)
    labels[2::3] = (i % 3) / 2
    return labels


REWARD = {"auto": AutoModelForSequenceClassification, "outputs": 1}
CASES = {
    "sft": Case(finetune.SFT()),
    "prepared on the whole step": Case(Spread()),
    "sft smoothed": Case(finetune.SFT(label_smoothing=0.1)),
    "sft weighted": Case(
        finetune.SFT(), extra=lambda i, one: replace(one, weights=one.weights * (0.3 + i % 3))
    ),
    "sft of an adapter": Case(finetune.SFT(), lora=LoRA(r=2, targets="all-linear")),
    "beside a reference that follows": Case(Leash(), follows=True),
    "continual": Case(
        finetune.Continual(), extra=marked(per_sequence={"replay": lambda i, _: torch.tensor([i % 4 == 0])})
    ),
    "classification": Case(
        finetune.Classification(),
        AutoModelForSequenceClassification,
        3,
        extra=marked(per_sequence={"class": lambda i, _: torch.tensor([i % 3])}),
    ),
    "classification of probabilities": Case(
        finetune.Classification(label_smoothing=0.1),
        AutoModelForSequenceClassification,
        3,
        extra=marked(
            per_sequence={"class": lambda i, _: torch.tensor([[0.5, 0.1 * (i % 3), 0.5 - 0.1 * (i % 3)]])}
        ),
    ),
    "bradley-terry of soft labels": Case(
        align.BradleyTerry(),
        **REWARD,
        sequences=2,
        extra=marked(per_example={"preference": lambda i, _: torch.tensor([0.5 + i % 5 / 8])}),
    ),
    "reward of an adapter": Case(align.BradleyTerry(), **REWARD, sequences=2, lora=LoRA(r=2)),
    "bradley-terry": Case(
        align.BradleyTerry(centering=0.1),
        **REWARD,
        sequences=2,
        extra=marked(per_example={"margin": lambda i, _: torch.tensor([i / 4])}),
    ),
    "bradley-terry of four": Case(align.BradleyTerry(), **REWARD, sequences=4),
    "plackett-luce": Case(align.PlackettLuce(), **REWARD, sequences=3),
    "regression": Case(
        align.Regression(), **REWARD, extra=marked(per_sequence={"score": lambda i, _: torch.tensor([i / 8])})
    ),
    "likert": Case(
        align.Likert(levels=4, raters=2),
        **REWARD,
        extra=marked(
            per_sequence={
                "score": lambda i, _: torch.tensor([i % 4]),
                "rater": lambda i, _: torch.tensor([i % 2]),
            }
        ),
    ),
    "process reward": Case(
        align.ProcessReward(), AutoModelForTokenClassification, 2, extra=marked(per_token={"step": steps_of})
    ),
    "process reward of one output": Case(
        align.ProcessReward(), AutoModelForTokenClassification, 1, extra=marked(per_token={"step": steps_of})
    ),
    "value clipped": Case(
        align.Value(clip=0.2),
        extra=marked(
            per_token={
                "return": lambda i, one: torch.arange(len(one.ids)) / 10 + i,
                "value": lambda i, one: torch.arange(len(one.ids)) % 3 + i / 2,
            }
        ),
    ),
    "value": Case(
        align.Value(),
        extra=marked(per_token={"return": lambda i, one: torch.arange(len(one.ids)) / 10 + i}),
    ),
}


def policy_of(case, dtype=torch.float64, door=None):
    more = {"num_labels": case.outputs} if case.outputs else {}
    made = model(dtype=dtype, auto=case.auto, classifier_dropout=0.0, **more)
    if case.lora is not None:
        made = case.lora.on(made, HEADS[case.auto], seed=0)
    return Policy(made, door=door)


HEADS = {
    AutoModelForCausalLM: Tokens(),
    AutoModelForSequenceClassification: Scores(),
    AutoModelForTokenClassification: StepScores(),
}


def data_of(case, n=8 * STEPS):
    made = examples(n, sequences=case.sequences)
    return [case.extra(i, one) for i, one in enumerate(made)] if case.extra else made


def beside(case, policy):
    """The reference that follows the policy, if one does, and what makes a stream carry what it says."""
    if not case.follows:
        return {}, lambda stream: stream
    reference = Reference(policy=policy.frozen(), alpha=0.5, every=2)
    return {"reference": reference}, lambda stream: Scored(stream, reference.policy)


def trained(name, *, dtype=torch.float64, door=None, **settings):
    """Losses of three steps of SGD and three of AdamW, and every weight after them."""
    case = CASES[name]
    policy, data = policy_of(case, dtype, door), data_of(case)
    reference, scored = beside(case, policy)
    found = {}
    for optim, lr in LR.items():
        batches = scored(Epochs(data, batch=8, shuffle=False))
        run = fit(policy, batches, case.objective, steps=STEPS, lr=lr, optim=optim, **reference, **settings)
        found[f"{optim}/loss"] = torch.tensor([row["loss"] for row in run.rows], dtype=torch.float64)
        found[f"{optim}/norm"] = torch.tensor([row["grad_norm"] for row in run.rows], dtype=torch.float64)
        if run.state is not None:
            found |= {f"{optim}/state/{n}": p.detach().clone() for n, p in run.state.named_parameters()}
    weights = model_weights(policy) or {n: p.detach().clone() for n, p in policy.model.state_dict().items()}
    return found | {f"weights/{n}": p.contiguous().clone() for n, p in weights.items()}


def recorded(to, **settings):
    """A run that writes everything down, with an evaluation before each checkpoint."""
    case = CASES["beside a reference that follows"]
    policy, data = policy_of(case), data_of(case)
    reference, scored = beside(case, policy)
    evaluation = Evaluation(examples=next(scored(Epochs(data, batch=5))), every=1)
    fit(
        policy,
        scored(Epochs(data, batch=8)),
        case.objective,
        steps=STEPS,
        lr=LR["adamw"],
        evaluation=evaluation,
        average=0.5,
        save_every=1,
        keep=1,
        to=to,
        **reference,
        **settings,
    )


LAYOUTS = {
    "micro-batches of one": {"micro": 1},
    "packed, nothing computed again": {"door": Packed(), "micro": 4, "activation_checkpointing": False},
    "other padding, micro-batches of 60 tokens": {
        "door": Padded(pad_id=49, multiple_of=16),
        "micro_tokens": 60,
    },
}


def main():
    from polmrs.engine import engine
    from safetensors.torch import save_file
    from torch.distributed.tensor import DTensor

    out = Path(sys.argv[1])
    torch.set_num_threads(1)
    shards = {}
    for kind in ("ddp", "fsdp2"):
        home = engine(kind)
        for name in CASES:
            found = trained(name, engine=home, micro=2)
            if home.rank == 0:
                save_file(found, out / f"{kind} {name}.safetensors")
        recorded(out / kind, engine=home)
        policy = policy_of(CASES["sft"])
        home.place(policy)
        shards[kind] = {
            n: [p.to_local().numel() if isinstance(p, DTensor) else -1, p.numel()]
            for n, p in policy.named_parameters()
        }
    if home.rank == 0:
        (out / "shards.json").write_text(json.dumps(shards))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
