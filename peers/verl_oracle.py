"""verl's advantages on arrays that a benchmark made: `.peers/verl-0.9/bin/python peers/verl_oracle.py FOLDER`.

Reads FOLDER/in.npz and FOLDER/cases.json (`gamma`, `lam`, `reps`), writes FOLDER/out.npz and FOLDER/times.json with median CPU
milliseconds on one thread: `gae` (`rewards`, `values`, `mask` [B, T]; verl whitens too), `group` and `group_vectorised`
(`scores` [prompts, samples]).
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from clock import median_ms
from verl.trainer.ppo import core_algos


def main() -> None:
    """Answers and times every case of the folder."""
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    cases = json.loads((folder / "cases.json").read_text())
    given = np.load(folder / "in.npz")
    found, times = {}, {}
    if "rewards" in given:
        rewards, values = torch.from_numpy(given["rewards"]), torch.from_numpy(given["values"])
        mask = torch.from_numpy(given["mask"]).float()

        def gae() -> tuple[torch.Tensor, torch.Tensor]:
            return core_algos.compute_gae_advantage_return(
                rewards, values, mask, cases["gamma"], cases["lam"]
            )

        times["gae"] = median_ms(gae, cases["reps"])
        found["returns"] = gae()[1].numpy()
    if "scores" in given:
        scores = torch.from_numpy(given["scores"]).reshape(-1, 1)
        mask, index = (
            torch.ones_like(scores),
            np.repeat(np.arange(len(given["scores"])), given["scores"].shape[1]),
        )

        def group(
            function: Callable[..., tuple[torch.Tensor, torch.Tensor]],
        ) -> tuple[torch.Tensor, torch.Tensor]:
            return function(scores, mask, index, epsilon=1e-4)

        for name, function in (
            ("group", core_algos.compute_grpo_outcome_advantage),
            ("group_vectorised", core_algos.compute_grpo_vectorized_outcome_advantage),
        ):
            times[name] = median_ms(lambda f=function: group(f), 1 if name == "group" else cases["reps"])
            found[name] = group(function)[0].reshape(-1).numpy()
    np.savez(folder / "out.npz", **found)
    (folder / "times.json").write_text(json.dumps(times))


if __name__ == "__main__":
    main()
