"""A model of polmrs in lm-evaluation-harness: `PYTHONPATH=python .peers/lm-eval/bin/python peers/lm_eval_oracle.py FOLDER`.

Reads the model and tokenizer in FOLDER/model, the tasks in FOLDER/*.yaml and their rows; writes FOLDER/out.json, the results of
every task by metric.
"""

import json
import sys
from pathlib import Path

import lm_eval
import polmrs as pm
from lm_eval.tasks import TaskManager


def main() -> None:
    """Evaluates and writes."""
    folder = Path(sys.argv[1])
    tasks = [file.stem for file in sorted(folder.glob("*.yaml"))]
    found = lm_eval.simple_evaluate(
        model=pm.evaluate.harness(pm.load(folder / "model")),
        tasks=tasks,
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=0,
    )
    results = {
        task: {k.partition(",")[0]: float(v) for k, v in row.items() if isinstance(v, float)}
        for task, row in found["results"].items()
    }
    (folder / "out.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main()
