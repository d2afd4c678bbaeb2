"""The benchmark of erasures: what its file promises, on two pictures of everything."""

import dataclasses
import importlib
import json
import logging
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parents[1]
LABELS = {"explicit", "synonym", "implicit", "implicit_heldout", "kept", "kept_implicit"}
ALSO_KEPT = {"kept_colour", "kept_style", "kept_background"}  # of a shape
ATTACKS = {"concept_inversion", "concept_direction", "token_prefix", "latent_inversion"}
ROW = {"label", "prompt", "images", "before", "after", "soft_before", "soft_after"}


@pytest.fixture(scope="module")
def erasure(comfy_host):
    """benchmarks/erasure.py, in this process, with the demo model loaded once."""
    path, level = list(sys.path), logging.getLogger().level
    sys.path.insert(0, str(ROOT / "benchmarks"))
    importlib.import_module("demo_world")  # puts the demo on sys.path
    module = importlib.import_module("erasure")
    yield module
    module.cases.bench.cache_clear()
    module.cases.prepare.cache_clear()
    sys.path[:] = path
    logging.getLogger().setLevel(level)


@pytest.fixture
def bench(erasure):
    return erasure.cases.bench()


@pytest.fixture
def weak_attacks(erasure, monkeypatch):
    """Attacks that take no time: what they are to find is another matter."""
    weak = erasure.attacks.Settings(steps=2, searches=1, candidates=2)
    monkeypatch.setattr(erasure.attacks, "SETTINGS", weak)
    erasure.cases.prepare.cache_clear()
    return weak


def ask(erasure, file, *arguments, methods=("uce",), concepts=("hourglass",), images=2, attacks=False):
    """What the file says after a run."""
    arguments = (*arguments, "--attacks" if attacks else "--no-attacks")
    options = ["--method", *methods, "--concept", *concepts, "--images", str(images), "--json", str(file), *arguments]
    erasure.main(options)
    return json.loads(file.read_text(encoding="utf-8"))


def test_the_file_of_one_method_and_concept(erasure, bench, tmp_path, capsys):
    found = ask(erasure, tmp_path / "out.json")
    assert (found["method"], found["concept"]) == ("uce", "hourglass")
    assert found["seconds"] > 0 and found["evaluations"] == 0
    assert 0 < found["shift"]
    assert all(set(row) == ROW for row in found["rows"])
    assert {row["label"] for row in found["rows"]} == LABELS | ALSO_KEPT
    for label in LABELS:
        assert sum(row["images"] for row in found["rows"] if row["label"] == label) == 2

    # the same, picture by picture
    prompts = erasure.erasing.prompts("hourglass", 2, erasure.cases.demo_world.SEED)
    erased, _, _ = bench.erase_with("uce", ["hourglass"])
    texts = [prompt.text for prompt in prompts]
    before, after = (
        bench.world.look(bench.world.draw(model, texts, erasure.cases.demo_world.SEED))
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
    asked, measure = [], erasure.cases.measure

    def stop_at_the_second(job):
        asked.append(job.asked.things)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return measure(job)

    monkeypatch.setattr(erasure.cases, "measure", stop_at_the_second)
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
    assert [{row["label"] for row in run["rows"]} for run in found] == [LABELS | ALSO_KEPT, {"mine"}]


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
        erasure.cases.read_prompts([line], "star", 1)


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
    assert erasure.cases.frechet(a, b) == pytest.approx(expected.item())
    assert erasure.cases.frechet(a, a) == pytest.approx(0, abs=1e-9)


# -- attacks


def test_attacks_are_rows_of_their_own(erasure, weak_attacks, tmp_path, monkeypatch, capsys):
    attacked, attack = [], erasure.attacks.attack

    def noted(bench, model, aim):
        attacked.append(model)
        return attack(bench, model, aim)

    monkeypatch.setattr(erasure.attacks, "attack", noted)
    found = ask(erasure, tmp_path / "out.json", methods=("uce", "leace"), images=1, attacks=True)
    unedited = erasure.cases.bench().world.model
    assert [model is unedited for model in attacked] == [True, False, False]  # once, and both are held to it
    for run in found:
        assert {row["label"] for row in run["rows"]} == LABELS | ALSO_KEPT | ATTACKS
        assert all(set(row) == ROW for row in run["rows"])
        for label in ATTACKS:
            assert sum(row["images"] for row in run["rows"] if row["label"] == label) == 1
        # a step of 4 pictures, twice; 4, and 2 candidates on 4 each; 20 steps of 1 picture
        expected = {"concept_inversion": 8, "concept_direction": 0, "token_prefix": 12, "latent_inversion": 20}
        assert {label: cost["queries"] for label, cost in run["attacks"].items()} == expected
        assert all(cost["seconds"] >= 0 for cost in run["attacks"].values())
        assert len(run["attacks"]["token_prefix"]["words"][0].split()) == weak_attacks.tokens
    first, second = ({(row["label"], row["prompt"]): row["before"] for row in run["rows"]} for run in found)
    assert first == second
    assert "| method | images | concept inversion |" in capsys.readouterr().out


def test_other_attacks_are_another_measurement(erasure, monkeypatch):
    def facts(attacked):
        return erasure.cases.Job("uce", erasure.cases.Asked(("star",), 1, attacked=attacked)).facts()

    without, usual = facts(False), facts(True)
    monkeypatch.setattr(erasure.attacks, "SETTINGS", erasure.attacks.Settings(steps=1))
    assert without == facts(False) and facts(True) not in (without, usual)


def test_an_erasure_that_changes_nothing_changes_no_figure(erasure, weak_attacks, tmp_path, monkeypatch):
    """The attacks included: they are seeded, and made in the same way before and after."""
    report = type("Report", (), {"seconds": {}, "evaluations": 0})
    monkeypatch.setattr(erasure.cases, "erase", lambda *_: (erasure.cases.bench().world.model, [report]))
    found = ask(erasure, tmp_path / "out.json", concepts=("green",), images=1, attacks=True)
    assert {row["label"] for row in found["rows"]} >= LABELS | ATTACKS
    for row in found["rows"]:
        assert (row["before"], row["soft_before"]) == (row["after"], row["soft_after"])
    assert found["shift"] == pytest.approx(0, abs=1e-6)


def test_attacks_learn_from_the_wordings_of_training_and_ask_for_the_same_in_held_out_ones(erasure, bench):
    captions = importlib.import_module("captions")
    held = tuple(template.replace("{}", "") for template in captions.HELD_OUT_TEMPLATES)
    for thing in ("hourglass", "green"):
        aim = erasure.attacks.take_aim(bench, thing, 3)
        assert len(aim.shown) == len(aim.asked) == len(aim.pictures) == 3
        for shown, asked in zip(aim.shown, aim.asked):
            assert asked.startswith(held) and not shown.startswith(held)
            things = [erasure.erasing.other_axes(text, "nothing") for text in (shown, asked)]
            assert things[0] == things[1] and thing in dict(things[0]).values()
        seen = bench.world.look(bench.world.decode(aim.pictures))
        assert seen.recognised(thing).float().mean() >= 2 / 3


@pytest.mark.parametrize(
    ("text", "thing", "word", "expected"),
    [
        ("a logo made of a solid red hourglass", "hourglass", "triangle", "a logo made of a solid red triangle"),
        ("look at an hourglass on a wall", "hourglass", "*", "look at a * on a wall"),
        ("an outlined red star", "outlined", "striped", "a striped red star"),
        ("a solid red star", "red", "orange", "a solid orange star"),
        ("a red star", "red", "orange", "an orange star"),
    ],
)
def test_a_word_in_the_place_of_the_concept(erasure, text, thing, word, expected):
    assert erasure.attacks.instead(text, thing, word) == expected


def test_the_noise_found_by_latent_inversion_leads_back_to_the_picture(erasure, bench):
    aim = erasure.attacks.take_aim(bench, "hourglass", 2)
    found = erasure.attacks.latent_inversion(bench, bench.world.model, aim)
    empty = bench.world.encode(["", ""])
    again, other = (
        bench.world.sample(bench.world.model, empty, 0, noise=noise, cfg=1.0) for noise in (found.noise, None)
    )
    apart, chance = ((z - aim.pictures).square().mean().sqrt() for z in (again, other))
    assert apart < 0.5 * chance


def test_what_else_a_caption_asks_for_is_what_it_says(erasure):
    captions, drawing = (importlib.import_module(name) for name in ("captions", "drawing"))
    generator = torch.Generator().manual_seed(0)
    axes = {"shape": "SHAPES", "colour": "COLOURS", "style": "STYLES", "background": "BACKGROUNDS"}
    for thing in (*drawing.SHAPES, *drawing.COLOURS, *drawing.STYLES):
        for kind in ("explicit", "implicit"):
            texts, said = captions.evaluation_captions(thing, kind, 10, generator)
            for i, text in enumerate(texts):
                shown = {axis: getattr(drawing, names)[getattr(said, axis)[i]] for axis, names in axes.items()}
                expected = {axis: name for axis, name in shown.items() if name != thing}
                assert dict(erasure.erasing.other_axes(text, thing)) == expected


def test_a_picture_of_methods_and_prompts(erasure, bench, tmp_path):
    file = tmp_path / "methods.png"
    erasure.main(["--method", "uce", "--concept", "hourglass", "--picture", str(file)])
    drawn, picture = Image.open(file), erasure.picture
    texts = picture.shown(erasure.erasing.prompts("hourglass", 2, erasure.cases.demo_world.SEED))
    columns, rows = 2, len(texts)
    assert drawn.width >= columns * picture.SIZE and drawn.height >= rows * picture.SIZE
    before = bench.world.draw(bench.world.model, [prompt.text for prompt in texts], erasure.cases.demo_world.SEED)
    sheet = picture.sheet([""] * rows, [("", before)])
    cell = (picture.GAP, picture.HEAD + picture.CAPTION, picture.GAP + picture.SIZE)
    box = (cell[0], cell[1], cell[2], cell[1] + picture.SIZE)
    assert drawn.crop(box).tobytes() == sheet.crop(box).tobytes()  # the unedited model's come first


# -- over a cluster


def test_a_cluster_gives_what_one_process_gives(erasure):
    ray = importlib.import_module("ray")
    cluster = importlib.import_module("ray.cluster_utils").Cluster(True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1)
        threads, spread = torch.get_num_threads(), erasure.spread
        torch.set_num_threads(1)

        def work(job):  # what a job may count on: modules beside the benchmark, and as many threads
            import os
            import time

            import resume

            time.sleep(0.2)
            return {"job": job, "found": resume.read(None), "threads": torch.get_num_threads()}, os.getpid()

        jobs = list(range(6))
        alone = {job: found for job, (found, _) in spread.serial(work, jobs)}
        there = dict(spread.over_ray(work, jobs, cluster.address))
        assert {job: found for job, (found, _) in there.items()} == alone
        assert len({process for _, process in there.values()}) == 2

        def fails(job):
            raise ValueError(f"job {job} cannot be done")

        with pytest.raises(ValueError, match="job 1 cannot be done"):
            list(spread.over_ray(fails, [1], cluster.address))
        assert not ray.is_initialized()
    finally:
        torch.set_num_threads(threads)
        cluster.shutdown()


def test_every_variant_of_the_tuning_table_can_be_made(erasure, pack):
    tuning, settings = importlib.import_module("tuning"), pack.ops.tuning.settings
    for preset, changes in tuning.VARIANTS.values():
        known = {name: value for name, value in changes.items() if name not in (tuning.ALONE, tuning.DEFECT)}
        assert isinstance(dataclasses.replace(getattr(settings, preset), **known), settings.TuneSettings)
