"""tokenizer.json of both models: JavaScript and Python agree, and any text comes back unchanged."""

import json
import random
import subprocess
from pathlib import Path

import kadenz_cli
import pytest
import tokenizers

STRINGS = 200
PIECES = [
    'What is 47+38?',
    ' the',
    'Hello',
    ' ',
    '  ',
    '\n',
    '\t',
    '\r\n',
    '0',
    '12',
    '3.14',
    '-7',
    'x',
    '=',
    "I'll",
    "don't",
    'é',
    'ß',
    '中文',
    '🙂',
    '👩‍👩‍👧',
    '½',
    '٣',
    '\u00a0',
    '\u200b',
    '\u0301',
    '“',
    '—',
    '<|im_start|>',
    '<|im_end|>',
    '<|endoftext|>',
    '<|im_',
    '{',
    '}',
    '\\',
    '"',
    'ABC',
    'zzz',
    '\u0000',
    '\u007f',
    '\ufffd',
    'Ġ',
    'ġ',
]


def draw_strings() -> list[str]:
    draw = random.Random(12)
    return [''.join(draw.choices(PIECES, k=draw.randint(1, 12))) for _ in range(STRINGS)]


def encode_in_javascript(folder: Path, strings: list[str]) -> list[dict]:
    finished = subprocess.run(
        ['node', str(Path(__file__).with_name('encode_strings.mjs'))],
        input=json.dumps({'folder': str(folder), 'strings': strings}),
        cwd=kadenz_cli.REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


@pytest.mark.parametrize('model', ['arithmetic_folder', 'smollm2_folder'])
def test_javascript_and_python_agree_on_200_strings_and_give_them_back(model, request):
    folder = request.getfixturevalue(model)
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / 'tokenizer.json'))
    strings = draw_strings()
    for string, found in zip(strings, encode_in_javascript(folder, strings), strict=True):
        ids = tokenizer.encode(string).ids
        assert found['ids'] == ids, repr(string)
        assert found['text'] == tokenizer.decode(ids, skip_special_tokens=False), repr(string)
        assert found['text'] == string
