"""Greedy soup: models averaged one by one, as long as a score does not fall."""

import itertools
import json
import sys

import polmrs.merge as pm
import pytest
import torch
from merge.made import fine_tunes, folder, same_bits, weights
from polmrs.errors import OutputExistsError, UsageError

pytestmark = pytest.mark.method("merge.soup")

# Scores by the distance from the model `target`, after writing down who was scored and how many averages there are.
SCORER = """
import sys
from pathlib import Path
from safetensors.numpy import load_file
model = Path(sys.argv[1])
with open("log", "a") as log:
    print(model.name, file=log)
with open("copies", "a") as log:
    print(len(list(Path("soup.partial").rglob("model.safetensors"))), file=log)
ours, target = (load_file(path / "model.safetensors")["w"].astype("float64") for path in (model, Path("target")))
print(((ours - target) ** 2).mean())
"""


def candidates(count=5, dtype=torch.float32):
    base, models = fine_tunes("continuous", 3000, count, dtype)
    models[-1] = base + 40 * (models[-1] - base)  # one that spoils every soup
    return base, {f"m{at}": {"w": model} for at, model in enumerate(models)}


def nearness(base):
    return lambda tensors: -(tensors["w"].double() - base.double()).square().mean().item()


def by_hand(models, score):
    """Recipe 1, over averages in f64."""
    order = sorted(models, key=lambda name: -score(models[name]))
    soup, reached = [], -float("inf")
    for name in order:
        average = {"w": torch.stack([models[one]["w"].double() for one in [*soup, name]]).mean(0).float()}
        if score(average) >= reached:
            soup, reached = [*soup, name], score(average)
    return soup


def test_it_is_recipe_1_of_the_paper():
    base, models = candidates()
    soup = pm.greedy_soup(models, score=nearness(base))
    assert list(soup.members) == by_hand(models, nearness(base))
    assert len(soup.members) == 4
    assert soup.score >= max(map(nearness(base), models.values()))
    spoiler = soup.tried[-1]
    assert (spoiler.model, spoiler.kept) == ("m4", False)
    assert spoiler.with_it < soup.score


def test_the_soup_is_the_average_of_its_members_and_of_nothing_rounded():
    base, models = candidates(dtype=torch.bfloat16)
    soup = pm.greedy_soup(models, score=nearness(base))
    average = pm.merge({name: models[name] for name in soup.members}, method=pm.Linear())
    assert same_bits(soup.merged["w"], average["w"])


def test_the_score_never_falls_while_members_come_in():
    base, models = candidates()
    kept = [tried.with_it for tried in pm.greedy_soup(models, score=nearness(base)).tried if tried.kept]
    assert all(before <= after for before, after in itertools.pairwise(kept))


def test_equal_scores_keep_a_model():
    models = {name: {"w": torch.ones(4)} for name in "abc"}
    assert pm.greedy_soup(models, score=lambda tensors: 1.0).members == ("a", "b", "c")


def test_a_loss_is_minimized():
    base, models = candidates()
    down = pm.greedy_soup(models, score=lambda tensors: -nearness(base)(tensors), maximize=False)
    assert down.members == pm.greedy_soup(models, score=nearness(base)).members


def test_folders_give_the_same_soup_and_leave_nothing_else(tmp_path):
    base, models = candidates(dtype=torch.bfloat16)
    folders = [folder(tmp_path / name, tensors) for name, tensors in models.items()]
    calls = []

    def score(path):
        calls.append(path)
        return nearness(base)(weights(path))

    soup = pm.greedy_soup(folders, score=score, to=tmp_path / "soup")
    inside = pm.greedy_soup(models, score=nearness(base))
    assert [member.rsplit("/", 1)[-1] for member in soup.members] == list(inside.members)
    assert same_bits(weights(tmp_path / "soup")["w"], inside.merged["w"])
    assert len(calls) == 5 + 4
    assert {path.name for path in tmp_path.iterdir()} == {*models, "soup"}
    with pytest.raises(OutputExistsError, match="soup"):
        pm.greedy_soup(folders, score=score, to=tmp_path / "soup")
    assert len(calls) == 9


def test_a_score_that_raises_leaves_what_was_scored_and_resume_goes_on(tmp_path):
    base, models = candidates()
    folders = [folder(tmp_path / name, tensors) for name, tensors in models.items()]
    calls = []

    def score(path, broken):
        calls.append(path)
        if broken and path not in folders:
            raise ZeroDivisionError
        return nearness(base)(weights(path))

    with pytest.raises(ZeroDivisionError):
        pm.greedy_soup(folders, score=lambda path: score(path, True), to=tmp_path / "soup")
    assert len(calls) == 6
    assert {path.name for path in tmp_path.iterdir()} == {*models, "soup.partial"}
    soup = pm.greedy_soup(folders, score=lambda path: score(path, False), to=tmp_path / "soup", resume=True)
    assert len(calls) == 6 + 4
    assert soup == pm.greedy_soup(
        folders, score=lambda path: score(path, False), to=tmp_path / "soup", overwrite=True
    )
    with pytest.raises(ZeroDivisionError):
        pm.greedy_soup(folders, score=lambda path: 1 / 0, to=tmp_path / "other")
    assert not (tmp_path / "other.partial").exists()


def test_the_command_line_makes_the_same_soup(tmp_path, polmrs):
    base, models = candidates()
    folders = [folder(tmp_path / name, tensors) for name, tensors in models.items()]
    folder(tmp_path / "target", {"w": base})
    (tmp_path / "score.py").write_text(SCORER)
    command = f"'{sys.executable}' score.py {{out}}"
    args = ["soup", *models, "--to", "soup", "--score", command, "--minimize"]
    ran = polmrs(*args, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    inside = pm.greedy_soup(models, score=nearness(base))
    assert same_bits(weights(tmp_path / "soup")["w"], inside.merged["w"])
    table = json.loads((tmp_path / "soup" / "polmrs_soup.json").read_text())
    assert table["members"] == list(inside.members)
    assert [row["kept"] for row in table["tried"]] == [one.kept for one in inside.tried]
    head, *rows, last = ran.stdout.splitlines()
    assert head.split() == ["model", "alone", "with", "it"]
    assert sum(row.endswith("kept") for row in rows) == 4
    assert last.startswith("soup: the average of 4 of 5, score ")
    assert "1 of 9: m0: " in ran.stderr
    assert max(map(int, (tmp_path / "copies").read_text().split())) == 2
    assert (tmp_path / "log").read_text().split() == [*models, *"5678"]
    assert polmrs(*args, cwd=tmp_path).returncode == 3  # it is there
    assert folders[0].exists()


def test_a_uniform_soup_is_the_average_of_all(tmp_path, polmrs):
    _, models = candidates()
    for name, tensors in models.items():
        folder(tmp_path / name, tensors)
    ran = polmrs("soup", *models, "--to", "soup", "--uniform", "--out-dtype", "bfloat16", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    average = pm.merge(models, method=pm.Linear(), out_dtype="bfloat16")
    assert same_bits(weights(tmp_path / "soup")["w"], average["w"])
    for words, message in [
        (["--uniform", "--score", "x {out}"], "cannot be used with"),
        ([], "--uniform"),
        (["--score", "x {out}"], "say --maximize or --minimize"),
        (["--score", "x {out}", "--maximize", "--dtype", "int4"], "not one of float8_e4m3fn, "),
    ]:
        ran = polmrs("soup", *models, "--to", "other", *words, cwd=tmp_path)
        assert ran.returncode == 2
        assert message in ran.stderr
    ran = polmrs("soup", "m0", "m0", "--to", "m0", "--uniform", cwd=tmp_path)
    assert "'m0' is given twice" in ran.stderr
    ran = polmrs("soup", "m0", "m1", "--to", "m0", "--uniform", "--overwrite", cwd=tmp_path)
    assert "m0: is also the input 'm0'" in ran.stderr


def test_slips_are_refused():
    _, models = candidates()
    for arguments, message in [
        (({}, lambda _: 0.0), "a soup needs at least one"),
        ((models, lambda _: float("nan")), "score: nan for m0 is not a finite number"),
        ((["a", "a"], lambda _: 0.0), "needs a folder to write"),
    ]:
        with pytest.raises(UsageError, match=message):
            pm.greedy_soup(arguments[0], score=arguments[1])
    with pytest.raises(UsageError, match="given twice"):
        pm.greedy_soup(["a", "a"], score=lambda _: 0.0, to="nowhere")
