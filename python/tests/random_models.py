"""Random-weight models of each supported architecture, made and saved by transformers itself.

Shapes are drawn from a seed, so that a failing test is named by (architecture, seed). The weights are scaled
so that attention, positions and gates all matter and the logits spread over several units: a flat model would
hide mistakes.
"""

import json
import math
import random
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

MAX_POSITIONS = 512
LOGIT_SPREAD = 3.0


@dataclass(frozen=True)
class Architecture:
    name: str
    config_class: type
    model_class: type
    extra: Callable[[random.Random], dict]
    free_head_dim: bool = True  # whether config.json names head_dim, apart from hidden_size / heads


def plain_rope(draw: random.Random) -> dict:
    return {'rope_type': 'default', 'rope_theta': draw.choice([10000.0, 500000.0])}


def linear_rope(draw: random.Random) -> dict:
    return {'rope_type': 'linear', 'rope_theta': 10000.0, 'factor': draw.choice([2.0, 2.5, 8.0])}


def llama3_rope(draw: random.Random) -> dict:
    # The original length is far below that of the tests' sequences, so that all three frequency bands are in
    # use.
    return {
        'rope_type': 'llama3',
        'rope_theta': draw.choice([10000.0, 500000.0]),
        'factor': draw.choice([4.0, 8.0, 32.0]),
        'low_freq_factor': 1.0,
        'high_freq_factor': draw.choice([2.0, 4.0]),
        'original_max_position_embeddings': draw.choice([32, 64]),
    }


def yarn_rope(draw: random.Random, names_all: bool) -> dict:
    factor = draw.choice([2.0, 4.0, 8.0])
    rope = {
        'rope_type': 'yarn',
        'rope_theta': draw.choice([10000.0, 1000000.0]),
        'factor': factor,
        'original_max_position_embeddings': int(MAX_POSITIONS / factor),
    }
    if names_all:
        rope |= {'beta_fast': draw.choice([16.0, 48.0]), 'beta_slow': draw.choice([0.5, 2.0])}
        rope |= {'attention_factor': draw.choice([0.9, 1.25])}
    return rope


ARCHITECTURES = [
    Architecture(
        'llama2', LlamaConfig, LlamaForCausalLM, lambda draw: {'rope_parameters': plain_rope(draw)}, False
    ),
    Architecture(
        'llama3.1', LlamaConfig, LlamaForCausalLM, lambda draw: {'rope_parameters': llama3_rope(draw)}
    ),
    Architecture(
        'llama-linear', LlamaConfig, LlamaForCausalLM, lambda draw: {'rope_parameters': linear_rope(draw)}
    ),
    Architecture(
        'llama-yarn',
        LlamaConfig,
        LlamaForCausalLM,
        lambda draw: {'rope_parameters': yarn_rope(draw, names_all=False)},
    ),
    Architecture(
        'mistral',
        MistralConfig,
        MistralForCausalLM,
        lambda draw: {'rope_parameters': plain_rope(draw), 'sliding_window': draw.choice([7, 16, 33, 48])},
    ),
    Architecture(
        'qwen2', Qwen2Config, Qwen2ForCausalLM, lambda draw: {'rope_parameters': plain_rope(draw)}, False
    ),
    Architecture(
        'qwen2-yarn',
        Qwen2Config,
        Qwen2ForCausalLM,
        lambda draw: {'rope_parameters': yarn_rope(draw, names_all=True)},
        False,
    ),
    Architecture('qwen3', Qwen3Config, Qwen3ForCausalLM, lambda draw: {'rope_parameters': plain_rope(draw)}),
]


def draw_config(architecture: Architecture, draw: random.Random):
    key_value_heads = draw.choice([1, 2, 3])
    heads = key_value_heads * draw.choice([1, 2, 3, 4])
    head_dim = draw.choice([8, 16, 20, 24, 32, 40, 80])
    hidden_size = heads * head_dim
    shape = {}
    if architecture.free_head_dim:
        # transformers asks for a multiple of the heads even where head_dim is named.
        hidden_size = heads * draw.randint(36 // heads, 200 // heads)
        shape['head_dim'] = head_dim
    return architecture.config_class(
        vocab_size=draw.randint(150, 700),
        hidden_size=hidden_size,
        intermediate_size=draw.randint(50, 300),
        num_hidden_layers=draw.choice([2, 3]),
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        max_position_embeddings=MAX_POSITIONS,
        rms_norm_eps=draw.choice([1e-5, 1e-6]),
        tie_word_embeddings=draw.random() < 0.5,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        **shape,
        **architecture.extra(draw),
    )


@torch.no_grad()
def randomise_weights(model, generator: torch.Generator) -> None:
    hidden_size = model.config.hidden_size
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if 'embed_tokens' in name or 'lm_head' in name:
            weight.copy_(noise * LOGIT_SPREAD / math.sqrt(hidden_size))
        elif name.endswith('bias'):
            weight.copy_(noise * 0.5)
        elif 'norm' in name:
            weight.copy_(1.0 + 0.2 * noise)
        else:
            gain = 1.4 if 'q_proj' in name or 'k_proj' in name else 1.0
            weight.copy_(noise * gain / math.sqrt(weight.shape[1]))


def write_config_as_before_version_5(folder: Path) -> None:
    """Most published directories have `rope_theta` and `rope_scaling` for RoPE and `torch_dtype`."""
    path = folder / 'config.json'
    config = json.loads(path.read_text())
    rope = dict(config.pop('rope_parameters'))
    config['rope_theta'] = rope.pop('rope_theta')
    config['rope_scaling'] = None if rope['rope_type'] == 'default' else rope
    config['torch_dtype'] = config.pop('dtype')
    path.write_text(json.dumps(config, indent=2))


def make_model(architecture: Architecture, seed: int, folder: Path) -> str:
    """Saves one model; returns a line on what was drawn, for the message of a failing test."""
    mixed_seed = zlib.crc32(f'{architecture.name} {seed}'.encode())
    draw = random.Random(mixed_seed)
    config = draw_config(architecture, draw)
    model = architecture.model_class(config)
    randomise_weights(model, torch.Generator().manual_seed(mixed_seed))
    dtype = draw.choice([torch.float32, torch.float16, torch.bfloat16])
    sharded, old_style = draw.random() < 0.5, draw.random() < 0.5
    model.to(dtype).save_pretrained(folder, max_shard_size='100KB' if sharded else '1GB')
    if old_style:
        write_config_as_before_version_5(folder)
    head_dim = getattr(config, 'head_dim', None) or config.hidden_size // config.num_attention_heads
    return (
        f'{architecture.name} seed {seed}: hidden {config.hidden_size}, heads {config.num_attention_heads}/'
        f'{config.num_key_value_heads} x {head_dim}, '
        f'vocab {config.vocab_size}, layers {config.num_hidden_layers}, tied {config.tie_word_embeddings}, '
        f'{dtype}, sharded {sharded}, old config {old_style}, rope {config.rope_parameters}'
    )


def draw_prompts(vocab_size: int, lengths: list[int], seed: int) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.randrange(vocab_size) for _ in range(length)] for length in lengths]
