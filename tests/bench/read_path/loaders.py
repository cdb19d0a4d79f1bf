#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What unmodified loaders take: safetensors, transformers and the Run:ai model streamer, where they can be imported; to
the memory of a GPU too (names that end in _gpu) where there is one; transformers takes accelerate for that.

As a program it is the worker: reads lines {"loader": NAME, "folder": PATH} and answers each with {"seconds": S}, after
a first line with the names it has.  Imports happen once, and every loader has freed its tensors before it answers.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from samples import Key

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def shards_in(folder: str) -> list[str]:
    return [str(shard) for shard in sorted(Path(folder).glob("*.safetensors"))]


def load_file(folder: str, device: str = "cpu"):
    from safetensors.torch import load_file as load

    return [load(shard, device=device) for shard in shards_in(folder)]


def safe_open_clone(folder: str):
    from safetensors import safe_open

    tensors = {}
    for shard in shards_in(folder):
        with safe_open(shard, framework="pt") as file:
            tensors |= {name: file.get_tensor(name).clone() for name in file.keys()}
    return tensors


def transformers(folder: str, **placement):
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto", **placement)


def arrived(loaded):
    """Waits until the copies to the GPU are done."""
    import torch

    torch.cuda.synchronize()
    return loaded


def load_file_gpu(folder: str):
    return arrived(load_file(folder, device="cuda"))


def transformers_gpu(folder: str):
    return arrived(transformers(folder, device_map="cuda"))


def runai_streamer(folder: str):
    from runai_model_streamer import SafetensorsStreamer

    with SafetensorsStreamer() as streamer:
        streamer.stream_files(shards_in(folder))
        return {name: tensor.clone() for name, tensor in streamer.get_tensors()}


NEEDS = {load_file: ("safetensors", "torch"), safe_open_clone: ("safetensors", "torch"),
         transformers: ("transformers", "torch"), runai_streamer: ("runai_model_streamer", "torch"),
         load_file_gpu: ("safetensors", "torch"), transformers_gpu: ("transformers", "torch", "accelerate")}


def has_gpu() -> bool:
    if not importlib.util.find_spec("torch"):
        return False
    import torch

    return torch.cuda.is_available()


def available() -> dict:
    gpu = has_gpu()
    return {loader.__name__: loader for loader, names in NEEDS.items()
            if all(map(importlib.util.find_spec, names)) and (gpu or not loader.__name__.endswith("_gpu"))}


def serve() -> None:
    """Answers requests on standard input; whatever libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    found = available()
    print(json.dumps(sorted(found)), file=answers)
    for line in sys.stdin:
        request = json.loads(line)
        start = time.perf_counter()
        loaded = found[request["loader"]](request["folder"])
        seconds = time.perf_counter() - start
        del loaded
        gc.collect()
        print(json.dumps({"seconds": seconds}), file=answers)


class Worker:
    """The loaders in a process of their own, for a `with` statement."""

    def __enter__(self) -> Worker:
        self.process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True)
        self.names: list[str] = self._answer()
        return self

    def __exit__(self, *_) -> None:
        self.process.stdin.close()
        self.process.wait()

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("the process that loads has died; see its message above")
        return json.loads(line)

    def load(self, loader: str, folder: Path) -> float:
        """Seconds that the loader took."""
        self.process.stdin.write(json.dumps({"loader": loader, "folder": str(folder)}) + "\n")
        self.process.stdin.flush()
        return self._answer()["seconds"]


def second_load(worker: Worker, name: str, folder: Path) -> float:
    """Of bytes that are there already; the first load is thrown away, as another loader may have run before it."""
    worker.load(name, folder)
    return worker.load(name, folder)


def measure(bench, worker: Worker, warm: bool) -> None:
    """One sample of each loader from plain files, from a fresh daemon, from those that warm what is read and, with
    `warm`, from memory."""
    size = bench.model.bytes
    for name in worker.names:
        bench.samples.add(Key("loaders", "plain", method=name), second_load(worker, name, bench.model.plain), size)
        for source, depth in bench.chains():
            with bench.mount(source):
                seconds = worker.load(name, bench.version(depth))
            bench.samples.add(Key("loaders", "cold", source, depth, name), seconds, size)
            for policy in ("memory", "wait"):
                with bench.mount_for_memory(source, f"--warm-on-open={policy}"):
                    seconds = worker.load(name, bench.version(depth))
                bench.samples.add(Key("loaders", f"warm-on-open={policy}", source, depth, name), seconds, size)
    for source, depth in bench.chains() if warm else ():
        with bench.mount_for_memory(source) as mounted:
            bench.warm(mounted, depth, "memory")
            for name in worker.names:
                seconds = second_load(worker, name, bench.version(depth))
                bench.samples.add(Key("loaders", "memory", source, depth, name), seconds, size)


if __name__ == "__main__":
    serve()
