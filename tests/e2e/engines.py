# SPDX-License-Identifier: Apache-2.0
"""Real engines, a model small enough for them to start on any machine, and what transformers says of their answers.

WEIGHTFS_VLLM and WEIGHTFS_SGLANG name a Python that has the engine; scripts/engine_env makes one.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from following import status, wait_until
from reference import weight_v
from reference.safetensors_io import ModelFolder, State, write_model

SGLANG_CPU = Path(__file__).parent / "sglang_cpu"
START_LIMIT = 300  # seconds within which a server answers, on the busiest machine
CONTEXT = 4096
VOCABULARY = 512
# More than two blocks of the prefix cache, which are 128 tokens on a CPU.
PROMPT = [(7 * number + 3) % (VOCABULARY - 12) + 4 for number in range(300)]
# BF16 rounds elsewhere in an engine than in transformers.  Models of two versions differ by more than 1.
NEAR = 0.1


# --- the model ------------------------------------------------------------------------------------


def model_config(tied: bool):
    import transformers

    return transformers.Qwen3Config(
        architectures=["Qwen3ForCausalLM"], vocab_size=VOCABULARY, hidden_size=128, intermediate_size=320,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=32, initializer_range=0.1,
        max_position_embeddings=CONTEXT, tie_word_embeddings=tied, bos_token_id=0, eos_token_id=1)


def model_state(seed: int, tied: bool) -> State:
    """Weights of which no tensor is that of another seed, norms included."""
    import torch
    import transformers
    from reference.trainer import to_tensor

    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(model_config(tied), dtype=torch.bfloat16)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.copy_(torch.rand_like(parameter) + 0.5)
    return {name: to_tensor(value) for name, value in model.named_parameters()}


def write_base(folder: Path, state: State, tied: bool) -> Path:
    """A folder that engines take: tokens are the words t0, t1, ..."""
    import tokenizers
    import transformers

    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(
        {f"t{number}": number for number in range(VOCABULARY)}, unk_token="t2"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    extras = folder.parent / "extras"
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, bos_token="t0", eos_token="t1",
                                         unk_token="t2").save_pretrained(extras)
    write_model(folder, state, 3, extra={path.name: path.read_bytes() for path in extras.iterdir()})
    model_config(tied).save_pretrained(folder)
    return folder


class ServedRun:
    """A run of weight_v deltas on a model that engines can serve; `folders` holds each version's true folder."""

    def __init__(self, place: Path, tied: bool = False):
        self.place, self.tied, self.number = place, tied, 0
        first = model_state(self.number, tied)
        self.base = write_base(place / "base", first, tied)
        self.source, self.folders = place / "source", {"base": self.base}
        self.source.mkdir()
        self.writer = weight_v.WeightVWriter(place / "workshop", first)

    def mount_base(self) -> Path:
        return self.base

    def publish(self) -> str:
        self.number += 1
        state = model_state(self.number, self.tied)
        made = self.writer.publish(state)
        self.folders[made.name] = ModelFolder.open(self.base).write_version(self.place / "true" / made.name, state)
        shutil.copytree(made, self.place / "staging")
        os.rename(self.place / "staging", self.source / made.name)
        return made.name


@dataclass
class Answer:
    tokens: list[int]
    logprobs: list[float]
    finish: str
    cached: int
    version: str = ""


def log_softmax(folder: Path, tokens: list[int]) -> np.ndarray:
    """What transformers computes from a folder: a row for each token, of what comes after it."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].float().log_softmax(-1).numpy()


def distance(folder: Path, answer: Answer, tail: int = 0) -> float:
    """How far an answer (its last `tail` tokens) is from what this folder's model gives, at its farthest token."""
    rows = log_softmax(folder, PROMPT + answer.tokens)[len(PROMPT) - 1:-1]
    rows = rows[np.arange(len(answer.tokens)), answer.tokens]
    return float(np.abs(rows - answer.logprobs)[-tail:].max())


# --- the server -----------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Engine:
    """A server on a folder; the port may be known before it starts."""

    name: str  # that of the hook and of the environment's variables
    running: str  # a metric that grows as soon as a request runs

    def __init__(self, folder: Path, log: Path, *options: str, port: int = 0):
        self.port, self.log = port or free_port(), log
        self.url = f"http://127.0.0.1:{self.port}"
        python = self.python()
        environment = {"PATH": f"{Path(python).parent}:{os.environ['PATH']}", "HOME": str(log.parent),
                       "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | self.environment()
        command = [python, "-m", *self.command(folder), "--host", "127.0.0.1", "--port", str(self.port), *options]
        with open(log, "wb") as out:
            self.process = subprocess.Popen(command, env=environment, cwd=log.parent, stdin=subprocess.DEVNULL,
                                            stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            wait_until(self._has_started, START_LIMIT, lambda: f"{self.name}: {self.said()}", pause=0.5)
        except BaseException:
            self.close()
            raise

    @classmethod
    def python(cls) -> str:
        return os.environ.get(f"WEIGHTFS_{cls.name.upper()}", "")

    # What depends on the engine:

    def environment(self) -> dict[str, str]:
        raise NotImplementedError

    def command(self, folder: Path) -> list[str]:
        raise NotImplementedError

    def ask(self, tokens: int = 24) -> Answer:
        """The likeliest continuation of the prompt."""
        raise NotImplementedError

    # What does not:

    def _has_started(self) -> bool:
        if self.process.poll() is not None:
            pytest.fail(f"{self.name} ended: {self.said()}")
        return self.is_healthy()

    def is_healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=30) as answer:
                return answer.status == 200
        except OSError:
            return False

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]

    def post(self, path: str, body: dict) -> dict:
        request = urllib.request.Request(f"{self.url}{path}", json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{path}: {error.code} {error.read().decode()}") from error

    def count(self, metric: str) -> float:
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=60) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(metric))

    def close(self) -> None:
        """Ends it with its workers, which are its process group."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait(20)


class Vllm(Engine):
    name = "vllm"
    running = "vllm:generation_tokens_total"

    def environment(self):
        return {"VLLM_SERVER_DEV_MODE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1",
                "VLLM_CPU_OMP_THREADS_BIND": "nobind"}

    def command(self, folder):
        """As `vllm serve`, which vllm-cpu 0.32 cannot start because it looks for a package of the name vllm."""
        return ["vllm.entrypoints.openai.api_server", "--model", folder, "--served-model-name", "m", "--enforce-eager",
                "--max-model-len", str(CONTEXT), "--max-num-seqs", "8", "--enable-prompt-tokens-details"]

    def ask(self, tokens=24):
        got = self.post("/v1/completions", {"model": "m", "prompt": PROMPT, "max_tokens": tokens, "temperature": 0,
                                            "logprobs": 0, "ignore_eos": True, "return_token_ids": True})
        choice, details = got["choices"][0], got["usage"]["prompt_tokens_details"]
        return Answer(choice["token_ids"], choice["logprobs"]["token_logprobs"], choice["finish_reason"],
                      details["cached_tokens"] if details else 0)


class Sglang(Engine):
    """On a CPU, without kernels of its own where sglang_cpu/ has to stand in for them."""

    name = "sglang"
    running = "sglang:num_running_reqs{"

    def environment(self):
        return {"SGLANG_USE_CPU_ENGINE": "1", "PYTHONPATH": str(SGLANG_CPU)}

    def command(self, folder):
        return ["sglang.launch_server", "--model-path", folder, "--served-model-name", "m", "--device", "cpu",
                "--attention-backend", "torch_native", "--sampling-backend", "pytorch", "--grammar-backend", "none",
                "--disable-overlap-schedule", "--max-total-tokens", str(2 * CONTEXT), "--context-length",
                str(CONTEXT), "--enable-metrics", "--skip-server-warmup"]

    def ask(self, tokens=24):
        wanted = {"temperature": 0, "max_new_tokens": tokens, "ignore_eos": True}
        got = self.post("/generate", {"input_ids": PROMPT, "sampling_params": wanted, "return_logprob": True})
        meta = got["meta_info"]
        logprobs, ids, _ = zip(*meta["output_token_logprobs"], strict=True)
        return Answer(list(ids), list(logprobs), meta["finish_reason"]["type"], meta["cached_tokens"],
                      meta["weight_version"])


class Underway:
    """A request whose answer takes seconds, and which is being computed."""

    TOKENS = CONTEXT // 2

    def __init__(self, server: Engine):
        before = server.count(server.running)
        self._answers = []
        self._thread = threading.Thread(target=lambda: self._answers.append(server.ask(self.TOKENS)))
        self._thread.start()
        wait_until(lambda: server.count(server.running) > before, what="no token")

    @property
    def is_done(self) -> bool:
        return not self._thread.is_alive()

    def answer(self) -> Answer:
        self._thread.join(120)
        assert self._answers, "it was never answered"
        return self._answers[0]


def wait_told(mounted, name: str) -> dict:
    """Waits until the hook was run for a version; what is said of it."""
    def told():
        found = status(mounted)["follow"]["on_advance"]
        return found["last"] if not found["running"] and found["last"] and found["last"]["version"] == name else None

    return wait_until(told, 120, lambda: f"{status(mounted)['follow']}\n{mounted.log_file.read_text()[-2000:]}")
