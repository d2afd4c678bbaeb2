"""The benchmark of erasures: what its file promises, on two pictures of everything."""

import importlib
import json
import logging
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
LABELS = {"explicit", "synonym", "implicit", "implicit_heldout", "kept", "kept_implicit"}
ROW = {"label", "prompt", "images", "before", "after", "soft_before", "soft_after"}


@pytest.fixture(scope="module")
def erasure(comfy_host):
    """benchmarks/erasure.py, in this process, with the demo model loaded once."""
    path, level = list(sys.path), logging.getLogger().level
    sys.path.insert(0, str(ROOT / "benchmarks"))
    demo_world = importlib.import_module("demo_world")
    module = importlib.import_module("erasure")
    bench = demo_world.load()
    load, demo_world.load = demo_world.load, lambda: bench
    yield module
    demo_world.load = load
    sys.path[:] = path
    logging.getLogger().setLevel(level)


@pytest.fixture
def bench(erasure):
    return erasure.demo_world.load()


def ask(erasure, file, *arguments, methods=("uce",), concepts=("hourglass",), images=2):
    """What the file says after a run."""
    options = ["--method", *methods, "--concept", *concepts, "--images", str(images), "--json", str(file), *arguments]
    erasure.main(options)
    return json.loads(file.read_text(encoding="utf-8"))


def test_the_file_of_one_method_and_concept(erasure, bench, tmp_path, capsys):
    found = ask(erasure, tmp_path / "out.json")
    assert (found["method"], found["concept"]) == ("uce", "hourglass")
    assert found["seconds"] > 0 and found["evaluations"] == 0
    assert 0 < found["shift"]
    assert all(set(row) == ROW for row in found["rows"])
    assert {row["label"] for row in found["rows"]} == LABELS
    for label in LABELS:
        assert sum(row["images"] for row in found["rows"] if row["label"] == label) == 2

    # the same, picture by picture
    prompts = erasure.erasing.prompts("hourglass", 2, erasure.demo_world.SEED)
    erased, _, _ = bench.erase_with("uce", ["hourglass"])
    texts = [prompt.text for prompt in prompts]
    before, after = (
        bench.world.look(bench.world.draw(model, texts, erasure.demo_world.SEED))
        for model in (bench.world.model, erased)
    )
    for i, prompt in enumerate(prompts):
        (row,) = (r for r in found["rows"] if (r["label"], r["prompt"]) == (prompt.label, prompt.text))
        if row["images"] == 1:
            assert row["before"] == float(before.recognised(prompt.thing)[i])
            assert row["after"] == float(after.recognised(prompt.thing)[i])
            assert row["soft_after"] == pytest.approx(after.probability(prompt.thing)[i].item(), abs=1e-4)
    table = capsys.readouterr().out
    assert "| no edit | 2 |" in table and "| uce | 2 |" in table


def test_a_run_goes_on_where_it_was_stopped(erasure, tmp_path, monkeypatch):
    def ask_for_two(file):
        return ask(erasure, file, concepts=("hourglass", "square"), images=1)

    whole = ask_for_two(tmp_path / "whole.json")
    asked, measure = [], erasure.measure

    def stop_at_the_second(bench, name, case):
        asked.append(case.things)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return measure(bench, name, case)

    monkeypatch.setattr(erasure, "measure", stop_at_the_second)
    file = tmp_path / "stopped.json"
    with pytest.raises(KeyboardInterrupt):
        ask_for_two(file)
    assert [run["concept"] for run in json.loads(file.read_text(encoding="utf-8"))] == ["hourglass"]
    resumed = ask_for_two(file)
    assert asked == [("hourglass",), ("square",), ("square",)]
    assert [{**run, "seconds": 0} for run in resumed] == [{**run, "seconds": 0} for run in whole]
    assert ask_for_two(file) == resumed and len(asked) == 3
    assert [path.name for path in tmp_path.glob("*.part")] == []


def test_other_pictures_are_not_taken_from_the_file(erasure, tmp_path):
    file, prompts = tmp_path / "out.json", tmp_path / "prompts.txt"
    prompts.write_text("mine\ta sand timer\n", encoding="utf-8")
    ask(erasure, file, images=1)
    found = ask(erasure, file, "--prompts", str(prompts), images=1)
    assert [{row["label"] for row in run["rows"]} for run in found] == [LABELS, {"mine"}]


def test_prompts_from_outside(erasure, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(
        "attack 1\ta sign showing a red sand timer\nkept words\tlook at a solid red heart\n\n"
        "kept other\tan icon of a church top with four arms\n",
        encoding="utf-8",
    )
    found = ask(erasure, tmp_path / "out.json", "--prompts", str(prompts), images=3)
    assert [(row["label"], row["images"]) for row in found["rows"]] == [
        ("attack 1", 3),
        ("kept words", 3),
        ("kept other", 3),
    ]
    assert all(row["before"] >= 2 / 3 for row in found["rows"])  # each is looked at for what it asks for
    assert found["rows"][0]["after"] < found["rows"][0]["before"]


@pytest.mark.parametrize(
    ("text", "concept", "thing"),
    [
        ("a solid red heart on a gray wall", "star", "heart"),
        ("a solid red heart", "blue", "red"),  # another of the concept's own sort first
        ("a heart", "striped", "heart"),
        ("a red sheriff badge that guides the sailors", "heart", "star"),
        ("a Sickle painted like a frog", "red", "green"),
        ("a startling redwood", "blue", None),
    ],
)
def test_what_a_kept_prompt_asks_for(erasure, text, concept, thing):
    assert erasure.erasing.asked_for(text, other_than=concept) == thing


@pytest.mark.parametrize(
    ("line", "message"),
    [("a star", "label<TAB>prompt"), ("\ta star", "label<TAB>prompt"), ("kept\ta dog", "nothing"), ("", "no lines")],
)
def test_prompts_that_cannot_be_scored_are_named(erasure, line, message):
    with pytest.raises(SystemExit, match=message):
        erasure.read_prompts([line], "star", 1)


def test_several_at_once_and_stacked(erasure, tmp_path, capsys):
    concepts = ("hourglass", "square")
    found = ask(erasure, tmp_path / "out.json", "--together", "1", "2", concepts=concepts, images=1)
    assert [(run["method"], run["concept"]) for run in found] == [
        ("uce", "hourglass"),
        ("uce", "square"),
        ("uce", "hourglass+square"),
        ("uce, stacked", "hourglass+square"),
    ]
    assert "| 2 | uce, stacked | 2 |" in capsys.readouterr().out

    asked = [Counter() for _ in found]
    for count, run in zip(asked, found, strict=True):
        for row in run["rows"]:
            count[row["label"], row["prompt"]] += row["images"]
    assert asked[0] + asked[1] == asked[2] == asked[3]  # the same prompts
    for prompt in erasure.erasing.prompts("hourglass", 12, also=concepts):
        if prompt.label.startswith("kept"):
            assert prompt.thing not in concepts and not erasure.erasing.named("square", prompt.text)


def test_a_table_pools_the_pictures(erasure):
    def run(concept, after, images):
        row = {"label": "explicit", "prompt": "", "images": images, "before": 1.0, "after": after}
        return {"method": "uce", "concept": concept, "rows": [{**row, "soft_before": 1.0, "soft_after": after}]}

    score = erasure.label_scores([run("star", 0.5, 4), run("heart", 0.0, 36)], "after")["explicit"]
    assert (score.images, score.hard) == (40, pytest.approx(0.05))
    for p in score.interval:  # Wilson's: the rates that lie 1.96 of their own standard errors off the measured one
        assert (score.hard - p) ** 2 == pytest.approx(1.96**2 * p * (1 - p) / score.images)


def test_frechet_distance_against_its_formula(erasure):
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(60, 5, generator=generator, dtype=torch.float64)
    b = torch.randn(40, 5, generator=generator, dtype=torch.float64) * torch.arange(1, 6) + 1
    ca, cb = torch.cov(a.mT), torch.cov(b.mT)
    root = torch.linalg.eigvals(ca @ cb).sqrt().sum().real
    expected = (a.mean(0) - b.mean(0)).square().sum() + ca.trace() + cb.trace() - 2 * root
    assert erasure.frechet(a, b) == pytest.approx(expected.item())
    assert erasure.frechet(a, a) == pytest.approx(0, abs=1e-9)
