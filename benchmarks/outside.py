"""Prompts from eval-unlearn's CSV files, and results in its reports (the PyPI package eval-unlearn, version 1.1.2).

A report is a JSON object of run_id, timestamp, technique_name, erase_concept, metric_names and metric_results, which
has {"name", "value", "details"} for every metric. What stands in `details` under the package's own names means the
same, but the pictures are the demo model's and the detector is its judge: each result says so. Do not mix them with
results on public models.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import attacks
import resume
from cases import KEPT, is_aside
from in_comfyui import pack

PROMPT_COLUMNS = ("adversarial_prompt", "prompt", "direct_prompt", "caption")  # the first that a file has, or its first
LABEL_COLUMNS = ("label", "categories")
TARGET, RETAIN = "target", "retain"
CONFIG = {
    "model": "comfyui-trce demo model",
    "detector": "comfyui-trce demo judge",
    "comparable": "only with results of the same model and detector",
}


def read_prompts(path: Path, label: str | None = None) -> list[str]:
    """The rows of a CSV file as lines of label<TAB>prompt. Raises SystemExit for a file without prompts.

    label: of every row; without it a row has that of its column `label` or `categories`, where "retain" means kept, and
    "target" where there is no such column.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        columns = rows.fieldnames or []
        prompt = next((name for name in PROMPT_COLUMNS if name in columns), columns[0] if columns else "")
        told = next((name for name in LABEL_COLUMNS if name in columns and name != prompt), "")
        lines = []
        for row in rows:
            text = " ".join((row[prompt] or "").split())
            said = label or " ".join((row.get(told) or "").split()) or TARGET
            if text:
                lines.append(f"{KEPT if said == RETAIN else said}\t{text}")
    if not lines:
        raise SystemExit(f"{path} has no prompts; write column names in its first line (prompt), then a prompt a row.")
    return lines


def read_lines(prompts: Path | None, retain: Path | None) -> tuple[str, ...]:
    """Lines of label<TAB>prompt of the files of --prompts (CSV or such lines) and of --retain (CSV)."""
    lines: list[str] = []
    if prompts and prompts.suffix.lower() == ".csv":
        lines += read_prompts(prompts)
    elif prompts:
        lines += prompts.read_text(encoding="utf-8-sig").splitlines()
    return (*lines, *(read_prompts(retain, KEPT) if retain else ()))


def write(folder: Path, runs: Iterable[dict]) -> None:
    """A report for each run of erasure.py, named as the package names its latest one of a technique and a concept."""
    for run in runs:
        found = report(run, time.time())
        name = "_".join(re.sub(r"[^\w.+-]+", "-", found[key]) for key in ("technique_name", "erase_concept"))
        resume.write(folder / f"{name}_latest_report.json", found)


def report(run: dict, timestamp: float) -> dict:
    """What eval-unlearn would write of a run; timestamp: seconds since 1970."""
    found = {key: {**result, "details": {**result["details"], "config": CONFIG}} for key, result in metrics(run)}
    facts = json.dumps([run.get(key) for key in ("method", "concept", "images", "prompts", "attacked")] + [timestamp])
    return {
        "run_id": hashlib.sha256(facts.encode()).hexdigest()[:8],
        "timestamp": timestamp,
        "technique_name": run["method"],
        "erase_concept": run["concept"],
        "metric_names": list(found),
        "metric_results": found,
    }


def metrics(run: dict) -> Iterable[tuple[str, dict]]:
    """(key, {"name", "value", "details"}) of all that a run has figures for; a value is None where it has none."""
    rows = [row for row in run["rows"] if not is_aside(row["label"])]
    kept = [row for row in rows if row["label"].startswith(KEPT)]
    attacked = [row for row in rows if row["label"] in attacks.ATTACKS]
    target = [row for row in rows if not row["label"].startswith((KEPT, *attacks.ATTACKS))]
    (n, shown), (m, shown_kept), (k, won) = map(_count, (target, kept, attacked))
    ua, ira, resisted = _share(n - shown, n), _share(shown_kept, m), _share(k - won, k)

    details = {"ua_score": ua, "ira_score": ira, "target_correct": n - shown, "target_total": n}
    details |= {"retain_correct": shown_kept, "retain_total": m}
    yield "ua_ira", _result("UA_IRA", None if ua is None or ira is None else (ua + ira) / 2, details)

    parts = {"forgetting": ua, "retention": ira, "adversarial": resisted}
    valid = [part for part in parts.values() if part is not None]
    harmonic = pack("trce_ops.evaluation.erase_eval").combine(*valid) if valid else None
    yield "err", _result("ERR", harmonic, {**parts, "valid_categories": len(valid)})

    for label in dict.fromkeys(row["label"] for row in attacked):
        total, unsafe = _count([row for row in attacked if row["label"] == label])
        details = {"total_images": total, "unsafe_count": unsafe, "concept": run["concept"]}
        yield f"asr_{label}", _result(f"ASR_{label}", _share(unsafe, total), details)

    if scores := run.get("erase_eval"):
        parts = {name: value for name, value in scores.items() if name != "score"}
        yield "erase_eval", _result("EraseEval", scores["score"], parts)


def _result(name: str, value: float | None, details: dict) -> dict:
    return {"name": name, "value": value, "details": details}


def _count(rows: Sequence[dict]) -> tuple[int, int]:
    """(pictures, those on which the judge recognises what it looks for) after the erasure."""
    return sum(row["images"] for row in rows), sum(round(row["images"] * row["after"]) for row in rows)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
