"""What mergekit makes of cases that a test made up: `.peers/mergekit/bin/python peers/mergekit_oracle.py FOLDER`.

Reads FOLDER/cases.json and the tensors of FOLDER/in.safetensors, writes FOLDER/out.json and FOLDER/out.safetensors:

- `merges`: state dicts, their tensors named case/model/tensor, and the results case/tensor. Tensors named case/mask/0 and
  so on stand in for the masks that DARE would draw, in the order in which it asks for them.
- `settings`: configurations, and the value that each named parameter has for each tensor at a depth, or the error.
- `folders`: configuration files and the folders into which `mergekit-yaml` merges them; those of several documents go
  through `mergekit-multi`, and those of bare files through `mergekit-pytorch`. The answer `folders` has their errors.
- `attempts`: likewise, where it may refuse; the answer, under the configuration's name, is the error, or null.
"""

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import torch
import yaml
from mergekit.config import ConfigReader, InputSliceDefinition, MergeConfiguration, OutputSliceDefinition
from mergekit.merge_methods import get, merge_state_dicts
from mergekit.parameter_resolver import resolve_parameters
from mergekit.scripts.merge_raw_pytorch import main as merge_files
from mergekit.scripts.multimerge import main as merge_documents
from mergekit.scripts.run_yaml import main as merge_yaml
from safetensors.torch import load_file, save_file


def merged(case: dict, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The merged state dict of a case whose tensors are named model/tensor, or mask/number."""
    models, masks = {}, []
    for name, tensor in tensors.items():
        model, _, rest = name.partition("/")
        if model == "mask":
            masks.append(tensor)
        else:
            models.setdefault(model, {})[rest] = tensor
    torch.manual_seed(case.get("seed", 0))
    with mock.patch("torch.bernoulli", side_effect=masks) if masks else nullcontext():
        return merge_state_dicts(
            {model: models[model] for model in case["models"]},
            case["method"],
            base=case["base"],
            parameters=case["parameters"],
            dtype=getattr(torch, case["dtype"]),
            out_dtype=getattr(torch, case["out_dtype"]),
        )


def resolved(case: dict) -> list[float | bool | None] | str:
    """The first model's value of the parameter (or the shared one) for every (tensor, depth)."""
    try:
        config = MergeConfiguration.model_validate(yaml.safe_load(case["config"]))
        sources = [
            InputSliceDefinition(model=m.model, parameters=m.parameters, layer_range=(0, 1))
            for m in config.models
        ]
        values = []
        for tensor, depth in case["tensors"]:
            reader = ConfigReader(config=config, t=depth, slice_out=OutputSliceDefinition(sources=sources))
            shared, own = resolve_parameters(
                get(config.merge_method).spec,
                tensor_name=tensor,
                inputs={sources[0].model: tensor},
                sources=reader.parameter_sources,
                t=depth,
            )
            values.append((own[sources[0].model] | shared)[case["parameter"]])
    except Exception as error:  # noqa: BLE001  whatever mergekit refuses with
        return f"{type(error).__name__}: {error}"
    return values


def into_folder(config: str, out: str) -> str | None:
    """Merges a configuration file by the command that mergekit has for its form; gives the error, if it stopped there."""
    text = Path(config).read_text()
    try:
        if "\n---\n" in text:
            merge_documents(
                [config, "-I", f"{out}-parts", "--out-path", out, "--quiet"], standalone_mode=False
            )
        elif ".safetensors" in text:
            merge_files([config, out, "--quiet"], standalone_mode=False)
        else:
            merge_yaml([config, out, "--quiet"], standalone_mode=False)
    except Exception as error:  # noqa: BLE001  whatever mergekit stops with
        return f"{type(error).__name__}: {error}"
    return None


def main() -> None:
    """Answers every case of the folder."""
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    cases = json.loads((folder / "cases.json").read_text())
    inputs: dict[str, dict[str, torch.Tensor]] = {case: {} for case in cases["merges"]}
    for name, tensor in load_file(folder / "in.safetensors").items():
        case, _, rest = name.partition("/")
        inputs[case][rest] = tensor
    found = {}
    for name, case in cases["merges"].items():
        for tensor, value in merged(case, dict(sorted(inputs[name].items()))).items():
            found[f"{name}/{tensor}"] = value.contiguous()
    save_file(found, folder / "out.safetensors")
    answers = {name: resolved(case) for name, case in cases["settings"].items()}
    answers |= {config: into_folder(config, out) for config, out in cases.get("attempts", [])}
    answers["folders"] = {out: into_folder(config, out) for config, out in cases["folders"]}
    (folder / "out.json").write_text(json.dumps(answers))


if __name__ == "__main__":
    main()
