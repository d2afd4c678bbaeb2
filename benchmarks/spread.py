"""Jobs one after another, or over a Ray cluster that is there already: the same function, the same results."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import torch

Job = TypeVar("Job")


def serial(work: Callable[[Job], dict], jobs: Sequence[Job]) -> Iterator[tuple[Job, dict]]:
    for job in jobs:
        yield job, work(job)


def over_ray(work: Callable[[Job], dict], jobs: Sequence[Job], address: str = "auto") -> Iterator[tuple[Job, dict]]:
    """As they end. `work` is a function of a module beside this one, which every node has at the same path.

    A job gets as many threads as this process computes with, so that it computes the same: OMP_NUM_THREADS=1 makes the
    most of a cluster. Raises what a job raises, and ends the others.
    """
    try:
        import ray
    except ImportError as error:
        raise SystemExit("--ray needs the package ray, one of the development tools in pyproject.toml.") from error
    threads = torch.get_num_threads()

    def call(job: Job) -> dict:
        torch.set_num_threads(threads)
        return work(job)

    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    passed = {name: os.environ[name] for name in ("COMFYUI_PATH",) if name in os.environ}
    ray.init(address=address, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": path, **passed}})
    try:
        task = ray.remote(num_cpus=threads)(call)
        pending = {task.remote(job): job for job in jobs}
        while pending:
            (done,), _ = ray.wait(list(pending))
            yield pending.pop(done), ray.get(done)
    finally:
        ray.shutdown()
