# SPDX-License-Identifier: Apache-2.0
"""What a Qwen3 checkpoint consists of: its config.json and its tensors."""

from __future__ import annotations


def qwen3_config(layers: int, hidden: int, vocab: int) -> dict:
    """A config.json that transformers' Qwen3ForCausalLM takes."""
    head_dim = 64
    heads = max(2, hidden // head_dim)
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "head_dim": head_dim,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": hidden * 3,
        "max_position_embeddings": 4096,
        "max_window_layers": layers,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": heads // 2,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": vocab,
    }


def qwen3_shapes(config: dict) -> dict[str, tuple[int, ...]]:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    queries = config["num_attention_heads"] * config["head_dim"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        shapes |= {
            prefix + "input_layernorm.weight": (hidden,),
            prefix + "mlp.down_proj.weight": (hidden, inner),
            prefix + "mlp.gate_proj.weight": (inner, hidden),
            prefix + "mlp.up_proj.weight": (inner, hidden),
            prefix + "post_attention_layernorm.weight": (hidden,),
            prefix + "self_attn.k_norm.weight": (config["head_dim"],),
            prefix + "self_attn.k_proj.weight": (keys, hidden),
            prefix + "self_attn.o_proj.weight": (hidden, queries),
            prefix + "self_attn.q_norm.weight": (config["head_dim"],),
            prefix + "self_attn.q_proj.weight": (queries, hidden),
            prefix + "self_attn.v_proj.weight": (keys, hidden),
        }
    return shapes | {"model.norm.weight": (hidden,)}
