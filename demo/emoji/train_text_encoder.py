"""Distils the teacher into the text encoder: the embedding at the end token, through a linear head, is the teacher's.

The texts are captions, single phrases and keywords, and WordNet's words and glosses of physical things; none of the
held-out phrases. The head is thrown away after training. bf16, one thread, some 10 minutes.
"""

from __future__ import annotations

import logging
import random

import numpy as np
import torch
import torch.nn.functional as F
import wordnet
from captions import TEMPLATES, training_caption, words
from common import RUNS, save_tensors
from phrases import keywords
from teacher import WIDTH as TEACHER_WIDTH
from teacher import Teacher
from text_encoder import LENGTH, WEIGHTS_FILE, WIDTH, TextEncoder, first_end, pad, token_rows, tokenizer
from torch import Tensor, nn
from training import Run
from world import article, concepts

STEPS, BATCH, LR = 1050, 96, 6e-4
CAPTIONS, THINGS = 26000, 30000
CORPUS = RUNS / "corpus.pt"
log = logging.getLogger(__name__)


def corpus() -> list[str]:
    """The texts to distil from, each once, without any that holds a held-out phrase."""
    rng = random.Random(5)
    texts = {training_caption(rng.randrange(len(concepts())), rng).text for _ in range(CAPTIONS)}
    for concept in concepts():
        groups = words()[concept.name]
        texts.update([concept.name, *keywords(concept)])
        for group in ("explicit", "synonym", "described"):
            texts.update(phrase for _, phrase in groups[group])
    held_out = [phrase for groups in words().values() for kind, phrase in groups["described held out"]]
    mine = {wordnet.synset(concept.lemma, concept.sense).offset for concept in concepts()}
    things = [thing for thing in wordnet.physical_things() if thing.offset not in mine]
    for thing in rng.sample(things, THINGS):
        gloss = rng.choice(thing.definitions() or [thing.words[0]])
        texts.add(gloss if rng.random() < 0.6 else rng.choice(TEMPLATES).format(gloss))
        texts.add(article(rng.choice(thing.words)))
    secret = {phrase for phrase in held_out if ", " not in phrase}
    ordered = sorted(text for text in texts if text not in secret and not any(phrase in text for phrase in held_out))
    rng.shuffle(ordered)
    return ordered


def prepare() -> dict:
    """Texts as token rows, the teacher's sentence embeddings of them, and the token table; made once."""
    if not CORPUS.exists():
        teacher, texts = Teacher(), corpus()
        log.info("text encoder: %d texts", len(texts))
        data = {"rows": token_rows(texts), "targets": teacher(texts).bfloat16()}
        torch.save(data | {"table": teacher.token_table(tokenizer())}, CORPUS)
    return torch.load(CORPUS, weights_only=True)


class Student(nn.Module):
    def __init__(self, table: Tensor):
        super().__init__()
        self.encoder = TextEncoder(table)
        self.head = nn.Linear(WIDTH, TEACHER_WIDTH)


def loss_of(student: Student, ids: Tensor, targets: Tensor) -> Tensor:
    """Cosine distance to the teacher at the first end token, less so at a random and at the last padding token.

    A contrastive term keeps the batch's similarities. ids (n, length), targets (n, TEACHER_WIDTH) unit vectors.
    """
    with torch.autocast("cpu", torch.bfloat16):
        embeddings = student.encoder(ids)
    rows, first, last = torch.arange(len(ids)), first_end(ids), ids.shape[1] - 1
    some = (first + 1 + (torch.rand(len(ids)) * (last - first)).long()).clamp(max=last)
    at_first, at_some, at_last = (
        student.head(embeddings[rows, position]) for position in (first, some, torch.full_like(first, last))
    )
    distance = [1 - F.cosine_similarity(out, targets).mean() for out in (at_first, at_some, at_last)]
    similarity = F.normalize(at_first, dim=1) @ targets.T * 20
    contrast = F.cross_entropy(similarity, (targets @ targets.T * 20).softmax(1))
    return distance[0] + 0.3 * distance[1] + 0.2 * distance[2] + 0.1 * contrast


def train() -> None:
    torch.manual_seed(0)
    data = prepare()
    rows, targets = data["rows"], data["targets"]
    student = Student(data["table"])
    run = Run("text_encoder", student, STEPS, LR, decay_from=STEPS // 5, warmup=100, average=0.99, save_every=120)
    batches: list[np.ndarray] = []
    while not run.done:
        rng = np.random.default_rng(run.step)
        if not batches:  # twenty batches of texts of similar length
            picked = sorted(rng.integers(0, len(rows), BATCH * 20), key=lambda i: len(rows[i]))
            batches = [np.array(picked[start : start + BATCH]) for start in range(0, len(picked), BATCH)]
            rng.shuffle(batches)
        batch = [int(i) for i in batches.pop()]
        whole = run.step % 12 == 0  # now and then all 77 positions
        batch = batch[:32] if whole else batch
        longest = LENGTH if whole else min(LENGTH, max(len(rows[i]) for i in batch) + 2)
        run.update(loss_of(student, pad([rows[i] for i in batch], longest), targets[batch].float()))
    run.use_average()
    student.eval()
    measure(student)
    save_tensors({name: value.half() for name, value in student.encoder.state_dict().items()}, WEIGHTS_FILE)


@torch.no_grad()
def measure(student: Student) -> None:
    """Logs how often teacher and student place a phrase's concept first, and among the first three, of all names."""
    teacher = Teacher()

    def learned(texts: list[str]) -> Tensor:
        ids = pad(token_rows(texts))
        return student.head(student.encoder(ids)[torch.arange(len(ids)), first_end(ids)])

    for group in ("synonym", "described", "described held out"):
        pairs = [(phrase, i) for i, c in enumerate(concepts()) for _, phrase in words()[c.name][group]]
        for name, embed in (("teacher", teacher), ("student", learned)):
            names = F.normalize(embed([article(concept.name) for concept in concepts()]), dim=1)
            found = F.normalize(embed([phrase for phrase, _ in pairs]), dim=1)
            best = (found @ names.T).topk(3).indices
            right = best == torch.tensor([i for _, i in pairs])[:, None]
            first, three = right[:, 0].float().mean(), right.any(1).float().mean()
            log.info("%s, %s: first %.2f, in three %.2f (n %d)", group, name, first, three, len(pairs))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(1)
    train()
