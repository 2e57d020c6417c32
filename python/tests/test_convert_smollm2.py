"""The converted SmolLM2 directory: its values, its tokenizer, and that it talks sense."""

import json
import os

import gguf
import pytest
import torch
from kadenz_tools.convert_smollm2 import (
    ConversionError,
    convert,
    from_rotate_half,
    packaged_gguf,
    to_rotate_half,
)
from reference import generate_greedily
from safetensors.torch import load_file
from transformers import AutoTokenizer

SENTENCES = [
    'Hello world',
    '  two spaces\n\nnew 12345 lines',
    "I'll say café, naïve and “quotes”: 中文 🙂 123abc456",
    'def f(x):\n    return x*2\t# tab',
    'price: $3.50, 1,000 items, ½ ٣٤',
    '\u00a0no-break\r\n\r\nCRLF  ',
    'a' * 50,
]


def test_rotary_rows_go_from_neighbours_to_halves_and_back():
    # Two heads of four rows: llama.cpp's row 1 of a head is the partner of row 0, Hugging Face's is row 2.
    weight = torch.arange(8.0).reshape(8, 1)
    assert to_rotate_half(weight, 2).flatten().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert torch.equal(from_rotate_half(to_rotate_half(weight, 2), 2), weight)


def test_weights_are_the_dequantised_values_rounded_once(smollm2_folder):
    weights = load_file(smollm2_folder / 'model.safetensors')
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(packaged_gguf()).tensors}
    assert len(weights) == len(tensors) == 272
    for name, converted, heads in (
        ('blk.7.attn_k.weight', 'model.layers.7.self_attn.k_proj.weight', 3),
        ('blk.7.ffn_down.weight', 'model.layers.7.mlp.down_proj.weight', None),
        ('token_embd.weight', 'model.embed_tokens.weight', None),
        ('output_norm.weight', 'model.norm.weight', None),
    ):
        values = torch.from_numpy(
            gguf.quants.dequantize(tensors[name].data, tensors[name].tensor_type).copy()
        )
        expected = values.half() if heads is None else to_rotate_half(values.half(), heads)
        assert torch.equal(weights[converted], expected)


def test_a_finished_conversion_is_left_alone(smollm2_folder):
    before = {file.name: os.stat(file).st_mtime_ns for file in smollm2_folder.iterdir()}
    assert convert(smollm2_folder) is False
    assert {file.name: os.stat(file).st_mtime_ns for file in smollm2_folder.iterdir()} == before


def test_a_directory_that_holds_something_else_is_not_overwritten(tmp_path):
    (tmp_path / 'notes.txt').write_text('mine')
    with pytest.raises(ConversionError, match='holds something else'):
        convert(tmp_path)
    assert (tmp_path / 'notes.txt').read_text() == 'mine'


def test_the_f16_gguf_holds_the_same_weights(smollm2_folder, tmp_path):
    output = tmp_path / 'smollm2.gguf'
    assert convert(smollm2_folder, gguf_output=output) is True
    weights = load_file(smollm2_folder / 'model.safetensors')
    source, written = gguf.GGUFReader(packaged_gguf()), gguf.GGUFReader(output)
    names = {name for name in source.fields if not name.startswith('GGUF.')}
    assert {name for name in written.fields if not name.startswith('GGUF.')} == names
    for name in names - {'general.file_type'}:
        assert written.fields[name].contents() == source.fields[name].contents()
    tensors = {tensor.name: tensor for tensor in written.tensors}
    query = torch.from_numpy(tensors['blk.3.attn_q.weight'].data.copy())
    assert torch.equal(query, from_rotate_half(weights['model.layers.3.self_attn.q_proj.weight'], 9))
    embedding = torch.from_numpy(tensors['token_embd.weight'].data.copy())
    assert torch.equal(embedding, weights['model.embed_tokens.weight'])


def test_sentences_round_trip_and_digits_are_tokens_of_their_own(smollm2_folder):
    tokenizer = AutoTokenizer.from_pretrained(smollm2_folder)
    for sentence in SENTENCES:
        assert tokenizer.decode(tokenizer(sentence)['input_ids']) == sentence
    assert tokenizer.convert_ids_to_tokens(tokenizer('a 123')['input_ids']) == ['a', 'Ġ', '1', '2', '3']
    config = json.loads((smollm2_folder / 'tokenizer_config.json').read_text())
    assert tokenizer('<|im_end|>')['input_ids'] == [tokenizer.eos_token_id] == [2]
    assert config['eos_token'] == '<|im_end|>'


def test_the_converted_model_knows_the_capital_of_france(smollm2):
    tokenizer = AutoTokenizer.from_pretrained(smollm2.folder)
    question = [{'role': 'user', 'content': 'What is the capital of France?'}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_dict=True)[
        'input_ids'
    ]
    answer = tokenizer.decode(generate_greedily(smollm2.reference, prompt, 16, end_ids=[2]))
    assert 'Paris' in answer
