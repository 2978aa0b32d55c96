"""TRL 1.12 on arrays that a benchmark made: `.peers/trl-1.12/bin/python peers/trl_oracle.py FOLDER`.

Reads FOLDER/in.npz and FOLDER/cases.json (`reps`, `capacity`, `batch`), writes FOLDER/out.npz and FOLDER/times.json with
median CPU milliseconds on one thread. Each case runs if its arrays are there:

- `rewards`, `values` [B, T]: the loop of its PPO trainer, taken from the installed file when this runs, since it is no function.
- `scores` [prompts, samples]: mean, `nanstd` and quotient, likewise from the lines of the GRPO trainer.
- `ids`, `offsets` (prompt, chosen, rejected; ...): `DataCollatorForPreference` over batches of Python lists.
- `lengths`: `_pack_bfd` on a table of one column of int32.
"""

import json
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import torch
import trl
from clock import median_ms
from trl.data_utils import _pack_bfd
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.utils import nanstd


def lines(file: str, first: str, last: str) -> str:
    """The lines of a file from the one that begins with `first` to the next that begins with `last`, both included."""
    source = (Path(trl.__file__).parent / file).read_text().splitlines()
    start = next(i for i, line in enumerate(source) if line.strip().startswith(first))
    end = next(i for i in range(start, len(source)) if source[i].strip().startswith(last))
    return textwrap.dedent("\n".join(source[start : end + 1]))


def main() -> None:
    """Answers and times every case of the folder."""
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    cases = json.loads((folder / "cases.json").read_text())
    reps = cases["reps"]
    given = dict(np.load(folder / "in.npz"))
    found, times = {}, {}
    if "rewards" in given:
        rewards, values = torch.from_numpy(given["rewards"]), torch.from_numpy(given["values"])
        args = SimpleNamespace(gamma=cases["gamma"], lam=cases["lam"])
        loop = compile(
            lines("experimental/ppo/ppo_trainer.py", "lastgaelam = 0", "returns = "), "ppo", "exec"
        )
        scope = {"rewards": rewards, "values": values, "responses": rewards, "args": args, "torch": torch}
        times["gae"] = median_ms(lambda: exec(loop, scope), reps)
        found["advantages"] = scope["advantages"].numpy()
    if "scores" in given:
        scores = torch.from_numpy(given["scores"])
        file = "trainer/grpo_trainer.py"
        mean = lines(file, "mean_grouped_rewards = torch.nanmean", "mean_grouped_rewards = mean")
        std = lines(file, "std_rewards = nanstd(rewards.view(-1", "std_rewards = std_rewards.repeat")
        code = compile(
            f"{mean}\n{std}\nadvantages = (rewards - mean_grouped_rewards) / (std_rewards + 1e-4)",
            "grpo",
            "exec",
        )
        scope = {
            "rewards": scores.reshape(-1),
            "num_generations": scores.shape[1],
            "torch": torch,
            "nanstd": nanstd,
        }
        times["group"] = median_ms(lambda: exec(code, scope), reps)
        found["group"] = scope["advantages"].numpy()
    if "ids" in given:
        rows = [row.tolist() for row in np.split(given["ids"], given["offsets"][1:-1])]
        pairs = [
            {"prompt_ids": rows[i], "chosen_ids": rows[i + 1], "rejected_ids": rows[i + 2]}
            for i in range(0, len(rows), 3)
        ]
        collator = DataCollatorForPreference(pad_token_id=0)
        size = cases["batch"]
        batches = [pairs[i : i + size] for i in range(0, len(pairs), size)]
        times["collate"] = median_ms(lambda: [collator(batch) for batch in batches], max(reps // 5, 1))
        batch = collator(batches[0])
        found["collated_tokens"] = batch["input_ids"][batch["attention_mask"].bool()].numpy()
        found["collated_targets"] = batch["completion_mask"][batch["attention_mask"].bool()].numpy()
        padded = [collator(batch)["input_ids"] for batch in batches]
        found["collated_bytes"] = np.array(sum(3 * 8 * ids.numel() for ids in padded))
    if "lengths" in given:
        offsets = np.concatenate([[0], np.cumsum(given["lengths"])]).astype(np.int32)
        column = pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.zeros(offsets[-1], np.int32)))
        table = pa.table({"input_ids": column})
        capacity = cases["capacity"]
        times["pack"] = median_ms(lambda: _pack_bfd(table, capacity), 1)
        packed = _pack_bfd(table, capacity)
        found["packs"] = np.array(len(packed))
    np.savez(folder / "out.npz", **found)
    (folder / "times.json").write_text(json.dumps(times))


if __name__ == "__main__":
    main()
