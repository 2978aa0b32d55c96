"""torchrl's GAE on arrays that a benchmark made: `.peers/torchrl/bin/python peers/torchrl_oracle.py FOLDER`.

Reads FOLDER/in.npz (`rewards`, `values`, [B, T], padding 0) and FOLDER/cases.json (`gamma`, `lam`, `reps`), writes FOLDER/out.npz
(`advantages`) and FOLDER/times.json: the loop (`gae`) and the vectorised form (`gae_vectorised`), CPU milliseconds, one thread.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from clock import median_ms
from torchrl.objectives.value.functional import (
    generalized_advantage_estimate,
    vec_generalized_advantage_estimate,
)


def main() -> None:
    """Answers and times the case of the folder."""
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    cases = json.loads((folder / "cases.json").read_text())
    given = np.load(folder / "in.npz")
    rewards, values = (torch.from_numpy(given[name])[..., None] for name in ("rewards", "values"))
    after = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    done = torch.zeros_like(rewards, dtype=torch.bool)
    done[:, -1] = True
    arguments = (cases["gamma"], cases["lam"], values, after, rewards, done)
    times = {
        "gae": median_ms(lambda: generalized_advantage_estimate(*arguments), cases["reps"]),
        "gae_vectorised": median_ms(lambda: vec_generalized_advantage_estimate(*arguments), cases["reps"]),
    }
    advantages = generalized_advantage_estimate(*arguments)[0]
    np.savez(folder / "out.npz", advantages=advantages[..., 0].numpy())
    (folder / "times.json").write_text(json.dumps(times))


if __name__ == "__main__":
    main()
