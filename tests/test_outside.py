"""The exchange with eval-unlearn: its prompt files in, results in its reports out."""

import importlib
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def erasure(comfy_host):
    path = list(sys.path)
    sys.path.insert(0, str(ROOT / "benchmarks"))
    importlib.import_module("demo_world")  # puts the demo on sys.path
    module = importlib.import_module("erasure")
    yield module
    module.cases.bench.cache_clear()
    module.cases.prepare.cache_clear()
    sys.path[:] = path


@pytest.fixture
def outside(erasure):
    return erasure.outside


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ('prompt\na star\n"a star, on\na wall"\n\n', ["target\ta star", "target\ta star, on a wall"]),  # UA-IRA
        ("\ufeffprompt\r\na star\r\n", ["target\ta star"]),  # from a spreadsheet
        ("text,seed\na star,3\n", ["target\ta star"]),  # the first column
        ("target_prompt,adversarial_prompt,best_similarity\na star,zx star,0.9\n", ["target\tzx star"]),  # P4D, MMA
        ("id,caption,qas\n1,a star,[]\n", ["target\ta star"]),  # TIFA
        ("concept_name,direct_prompt\nheart,a heart\n", ["target\ta heart"]),  # ERR
        ("prompt,categories\na star,target\na heart,retain\n", ["target\ta star", "kept\ta heart"]),
        ("label,prompt\nimplicit,a badge\n,a star\n", ["implicit\ta badge", "target\ta star"]),
    ],
)  # fmt: skip
def test_prompt_files_of_eval_unlearn(outside, tmp_path, text, lines):
    file = tmp_path / "prompts.CSV"
    file.write_bytes(text.encode())
    assert outside.read_prompts(file) == lines
    assert outside.read_lines(file, file) == (*lines, *(f"kept\t{line.partition(chr(9))[2]}" for line in lines))


@pytest.mark.parametrize("text", ["", "prompt\n", "prompt\n\n,\n"])
def test_a_prompt_file_without_prompts_is_named(outside, tmp_path, text):
    file = tmp_path / "empty.csv"
    file.write_text(text)
    with pytest.raises(SystemExit, match=r"empty\.csv has no prompts"):
        outside.read_prompts(file)


def run_of(**more):
    def row(label, images, after):
        return {"label": label, "prompt": "", "images": images, "before": 1.0, "after": after}

    rows = [row("explicit", 4, 0.25), row("implicit", 4, 0.5), row("kept", 5, 0.8), row("kept_implicit", 3, 1.0)]
    return {"method": "trce, stacked", "concept": "star+heart", "images": 4, "rows": rows, **more}, row


def test_results_are_counts_of_the_pictures(outside):
    run, row = run_of(erase_eval={"M1": 0.5, "M2": 0.5, "M3": 1, "M4": 1, "score": 0.6667})
    run["rows"] += [row("kept_colour", 50, 0.0), row("token_prefix", 8, 0.125), row("latent_inversion", 2, 1.0)]
    found = dict(outside.metrics(run))
    ua, ira, resisted = 5 / 8, 7 / 8, 7 / 10  # kept_colour looks at pictures that are counted already
    assert found["ua_ira"]["value"] == (ua + ira) / 2
    assert found["ua_ira"]["details"] == {
        "ua_score": ua, "ira_score": ira, "target_correct": 5, "target_total": 8, "retain_correct": 7, "retain_total": 8
    }  # fmt: skip
    assert found["err"]["value"] == pytest.approx(3 / (1 / ua + 1 / ira + 1 / resisted))
    assert found["asr_token_prefix"]["value"] == 1 / 8 and found["asr_latent_inversion"]["value"] == 1
    assert found["erase_eval"]["value"] == 0.6667 and "score" not in found["erase_eval"]["details"]

    only_kept = dict(outside.metrics({**run, "rows": [row("kept", 5, 0.8)], "erase_eval": None}))
    assert only_kept["ua_ira"]["value"] is None and only_kept["ua_ira"]["details"]["ua_score"] is None
    assert only_kept["err"]["value"] == pytest.approx(0.8) and set(only_kept) == {"ua_ira", "err"}


def test_a_report_has_the_fields_of_eval_unlearn(outside, tmp_path):
    run, _ = run_of()
    outside.write(tmp_path / "new" / "reports", [run, {**run, "concept": "red"}])
    files = sorted(path.name for path in (tmp_path / "new" / "reports").iterdir())
    assert files == ["trce-stacked_red_latest_report.json", "trce-stacked_star+heart_latest_report.json"]
    found = json.loads((tmp_path / "new" / "reports" / files[1]).read_text(encoding="utf-8"))
    assert found["technique_name"] == "trce, stacked" and found["erase_concept"] == "star+heart"
    assert found["timestamp"] > 0 and len(found["run_id"]) == 8
    assert found["metric_names"] == list(found["metric_results"])
    for result in found["metric_results"].values():
        assert set(result) == {"name", "value", "details"}
        assert "demo model" in result["details"]["config"]["model"]  # never to be taken for a public model's


def test_the_benchmark_reads_and_writes_them(erasure, tmp_path, capsys):
    target, retain, out = (tmp_path / name for name in ("target.csv", "retain.csv", "out.json"))
    target.write_text("prompt\na sand timer\n", encoding="utf-8")
    retain.write_text("prompt\na solid red heart\na solid blue heart\n", encoding="utf-8")
    options = ["--method", "uce", "--concept", "hourglass", "--images", "1", "--json", str(out)]
    options += ["--prompts", str(target), "--retain", str(retain), "--eval-unlearn", str(tmp_path / "reports")]
    erasure.main(options)
    found = json.loads(out.read_text(encoding="utf-8"))
    assert [row["label"] for row in found["rows"]] == ["target", "kept", "kept"]
    assert set(found["erase_eval"]) == {"M1", "M2", "M3", "M4", "score"}
    assert "| method | concepts | M1 named |" in capsys.readouterr().out
    (report,) = (tmp_path / "reports").iterdir()
    details = json.loads(report.read_text(encoding="utf-8"))["metric_results"]["ua_ira"]["details"]
    assert (details["target_total"], details["retain_total"]) == (1, 2)
    with pytest.raises(SystemExit):
        erasure.main(["--retain", str(retain)])
