"""Does runs on a Ray cluster: a cluster on this machine, or the one that RAY_ADDRESS names.

Each run is one task. Ray finds a machine with the CPUs and GPUs that the run takes, and a worker there forks the run.
Every machine must see the folder of the experiment and the data under the same names, because the run folders alone
say what has been done.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llm_jepa.errors import ConfigError

from .jobs import LOST, POLL_S, Attempt, Job, stop
from .workers import start_run

logger = logging.getLogger(__name__)


class RayPool:
    """Submits each run as a task that takes `cpus` (default 1) and `gpus` (default 0, parts allowed).

    Raises:
        ConfigError: If Ray is not installed, or no machine of the cluster has what a run takes.
    """

    def __init__(self, resources: Mapping[str, float]) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            self.ray: Any = importlib.import_module("ray")
        except ImportError as error:
            text = "executor=ray needs Ray: pip install 'llm-jepa[ray]'. Or set executor: local."
            raise ConfigError("package_missing", text) from error
        cpus, gpus = resources.get("cpus") or 1, resources.get("gpus", 0)
        self._owns_cluster = not self.ray.is_initialized()
        if self._owns_cluster:
            self.ray.init(log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
        self._check(cpus, gpus)
        remote = self.ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)  # Ray would retry without a message
        self._train = remote(train_in_worker)
        self._environment = {"OMP_NUM_THREADS": str(max(1, int(cpus))), "TOKENIZERS_PARALLELISM": "false"}

    def start(self, job: Job) -> Attempt:
        return _Task(self.ray, self._train.remote(job, os.getcwd(), self._environment), job)

    def close(self) -> None:
        if self._owns_cluster:
            self.ray.shutdown()

    def _check(self, cpus: float, gpus: float) -> None:
        """Refuse what no machine has: Ray would wait for such a machine for ever."""
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
            has = "; ".join(f"{node.get('CPU', 0):g} cpus, {node.get('GPU', 0):g} gpus" for node in nodes)
            self.close()
            raise ConfigError(
                "resources_missing",
                f"resources: a run takes {cpus:g} cpus and {gpus:g} gpus, but no machine of the Ray cluster has them "
                f"({has}). Lower them, or add a machine.",
            )


@dataclass
class _Task:
    ray: Any
    task: Any
    job: Job
    code: int | None = None

    def poll(self) -> int | None:
        if self.code is None and self.ray.wait([self.task], timeout=0)[0]:
            self.code = self._result()
        return self.code

    def ask_to_stop(self) -> None:
        self.ray.cancel(self.task)  # raises KeyboardInterrupt in the task: the run stops as after Ctrl-C

    def kill(self) -> None:
        self.ray.cancel(self.task, force=True)

    def _result(self) -> int:
        """Return the run's exit code. If its worker or machine was lost, log the reason and return LOST."""
        errors = self.ray.exceptions
        try:
            return int(self.ray.get(self.task))
        except errors.TaskCancelledError:
            return 128 + signal.SIGINT
        except errors.RayTaskError as error:
            problem, code = str(error), 1
        except errors.RayError as error:
            problem, code = str(error), LOST
        with self.job.folder.log_file.open("a", encoding="utf-8") as log:
            log.write(f"ray    {problem}\n")
        return code


def train_in_worker(job: Job, folder: str, environment: dict[str, str]) -> int:
    """Do one run in a Ray worker and return its exit code.

    The run is a process of its own, so an earlier run cannot affect it, and the worker imports everything only once.
    When the worker is killed, the run stops. Ray gives each task its own CUDA_VISIBLE_DEVICES.
    """
    os.chdir(folder)
    attempt = start_run(job, {**os.environ, **environment})
    try:
        while (code := attempt.poll()) is None:
            time.sleep(POLL_S)
    except BaseException:  # Ray cancels a task by a KeyboardInterrupt
        stop([attempt])
        raise
    return code
