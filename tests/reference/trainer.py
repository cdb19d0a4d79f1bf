# SPDX-License-Identifier: Apache-2.0
"""Trains a small transformers model for some steps: real weights for the tests (needs torch).

BF16 weights are cast from F32 masters that AdamW updates, as RL trainers do; at a small learning rate
about 1 % of the BF16 elements change in a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .safetensors_io import State, Tensor, write_model

TORCH_DTYPES = {torch.bfloat16: "BF16", torch.float32: "F32", torch.float16: "F16", torch.int64: "I64"}


def to_tensor(value: torch.Tensor) -> Tensor:
    data = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().copy()
    return Tensor(TORCH_DTYPES[value.dtype], tuple(value.shape), data)


def probe_logits(model: torch.nn.Module) -> torch.Tensor:
    tokens = torch.arange(48).reshape(2, 24) * 37 % model.config.vocab_size
    with torch.no_grad():
        return model.eval()(tokens).logits


@dataclass
class Training:
    """What a trainer knows: its base folder, and for each step its weights and what they compute."""

    base: Path
    states: list[State]  # states[0] is the base
    logits: list[torch.Tensor]
    parameters: list[str]  # names that PyTorch yields: a tied tensor once


def tiny_qwen3(dtype: torch.dtype) -> torch.nn.Module:
    """A small Qwen3 in `dtype`; built in it, because .to() would also round the rotary tables."""
    import transformers

    torch.manual_seed(11)
    config = transformers.Qwen3Config(
        vocab_size=3001, hidden_size=128, intermediate_size=320, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, max_position_embeddings=256, tie_word_embeddings=True,
        bos_token_id=0, eos_token_id=1)
    return transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)


def cast_state(model: torch.nn.Module, masters: dict[str, torch.Tensor]) -> State:
    """Loads the masters, rounded to the model's dtype, into the model; returns them as a state.

    Like checkpoints that were saved before tying was known, the state holds both tied names.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(masters[name])
    return {name: to_tensor(value) for name, value in model.state_dict().items()}


def train(folder: Path, steps: int, shards: int = 3, learning_rate: float = 9e-7) -> Training:
    """Writes a base folder with tied embeddings below `folder` and trains `steps` steps on it."""
    master_model = tiny_qwen3(torch.float32)
    model = tiny_qwen3(torch.bfloat16)
    with torch.no_grad():  # the first masters are BF16 values: the base is where the run starts
        for parameter in master_model.parameters():
            parameter.copy_(parameter.to(torch.bfloat16).float())
    masters = dict(master_model.named_parameters())
    states, logits = [cast_state(model, masters)], [probe_logits(model)]
    model.config.save_pretrained(folder / "base")
    write_model(folder / "base", states[0], shards, extra={
        "notes/run.txt": b"trained for tests\n", "empty": b"", "tokenizer_config.json": b"{}\n"})

    optimizer = torch.optim.AdamW(master_model.parameters(), lr=learning_rate)
    generator = torch.Generator().manual_seed(5)
    for _ in range(steps):
        start = torch.randint(0, 3001, (4, 1), generator=generator)
        tokens = (start + torch.arange(32) * 7) % 3001
        loss = master_model(tokens, labels=tokens).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        states.append(cast_state(model, masters))
        logits.append(probe_logits(model))
    return Training(folder / "base", states, logits, list(masters))


def changed_share(old: State, new: State) -> float:
    changed = sum(int(np.count_nonzero(old[name].bits() != new[name].bits())) for name in old)
    return changed / sum(tensor.elements for tensor in old.values())
