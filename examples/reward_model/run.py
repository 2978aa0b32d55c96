"""Train a reward model on real preference pairs, and see how often it agrees with held-out ones.

    python examples/reward_model/run.py [--data FILE] [--work .demo] [--resume] [--set KEY=VALUE ...]

SmolLM2-135M-Instruct with a head of one output, Bradley-Terry. The data is any file of pairs or rankings that `polmrs data
inspect` can read; without one, the harmless-base pairs of hh-rlhf (MIT) are fetched from the Hub. [run.yml](run.yml) is the
whole recipe. Prints the accuracy on held-out pairs with its standard error; exits with 1 unless that is above one half by two of
them.
"""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "merge_smollm2"), str(HERE.parent)]

from sft_smollm2.run import arguments, base_model, recipe_of  # noqa: E402
from stage import say  # noqa: E402

HH = "hf://datasets/Anthropic/hh-rlhf/harmless-base/test.jsonl.gz"


def main() -> int:
    options = arguments("Train a reward model on preference pairs.", HH)
    import polmrs as pm
    from polmrs.align.reward import pairs
    from polmrs.data.ragged import Batch
    from polmrs.evaluate import Score
    from polmrs.train.command import train
    from polmrs.train.supply import prepare

    model = base_model(options.work)
    recipe = recipe_of(options, "reward", model)
    train(recipe, resume=options.resume)
    policy = pm.load(Path(recipe.to) / "model", head=pm.models.Scores())
    data = prepare(recipe, policy.tokenizer, policy.context)
    say(f"scoring {len(data.held_out)} held-out pairs")
    right = []
    with policy.inference():
        for at in range(0, len(data.held_out), 8):
            batch = Batch.cat(data.held_out[at : at + 8])
            scores, (better, worse, share) = policy.scores(batch)[:, 0], pairs(batch)
            hits = (scores[better] > scores[worse]).double() * share
            right += hits.new_zeros(batch.examples).index_add(0, batch.example[better], hits).tolist()
    accuracy = Score.of(right)
    print(f"{len(data.train)} pairs to train on; curves: {recipe.to}/loss.png")
    print(f"accuracy on held-out pairs: {accuracy}")
    return 0 if accuracy.value - 2 * accuracy.stderr > 0.5 else 1


if __name__ == "__main__":
    sys.exit(main())
