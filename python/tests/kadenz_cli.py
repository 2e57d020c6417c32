"""Runs the command line as a user would: JSONL in, JSONL out, exit code checked.

KADENZ_CLI names another command to test, such as the transformers double beside this file.
"""

import json
import os
import shlex
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
TIMEOUT_S = 600


def command() -> list[str]:
    named = os.environ.get('KADENZ_CLI')
    if named:
        return shlex.split(named)
    main = REPOSITORY / 'dist' / 'cli' / 'main.js'
    assert main.exists(), 'dist/cli/main.js is not there: run `npm run build` first'
    return ['node', str(main)]


def write_lines(path: Path, lines: list[dict]) -> Path:
    path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    return path


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(arguments: list, run_with: list[str] | None = None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*(run_with or command()), *map(str, arguments)], capture_output=True, text=True, timeout=TIMEOUT_S
    )


def checked_run(arguments: list, run_with: list[str] | None = None) -> str:
    """Standard output of a run that has to end well."""
    finished = run(arguments, run_with)
    assert finished.returncode == 0, (
        f'{" ".join(map(str, arguments))}\nexit code {finished.returncode}\n{finished.stderr[-4000:]}'
    )
    return finished.stdout


def generate(
    model: Path, folder: Path, lines: list[dict], *arguments, run_with: list[str] | None = None
) -> list[dict]:
    """Output lines of `generate` in float32, checked to be one for each input line and in the same order."""
    prompts, output = write_lines(folder / 'prompts.jsonl', lines), folder / 'samples.jsonl'
    fixed = ['--model', model, '--prompts', prompts, '--dtype', 'float32', '--output', output]
    checked_run(['generate', *fixed, *arguments], run_with)
    results = read_lines(output)
    assert [result['id'] for result in results] == [line['id'] for line in lines]
    for line, result in zip(lines, results, strict=True):
        if 'prompt_token_ids' in line:
            assert result['prompt_token_ids'] == line['prompt_token_ids']
    return results


def generate_greedily(
    model: Path, folder: Path, prompts: list[list[int]], count: int, run_with=None
) -> list[dict]:
    """The one sample of each prompt."""
    lines = [{'id': f'p{at}', 'prompt_token_ids': prompt} for at, prompt in enumerate(prompts)]
    arguments = ['--temperature', 0, '--max-tokens', count, '--logprobs', 0, '--ignore-eos']
    results = generate(model, folder, lines, *arguments, run_with=run_with)
    assert all([sample['index'] for sample in result['samples']] == [0] for result in results)
    return [result['samples'][0] for result in results]


def score(model: Path, folder: Path, sequences: list[list[int]], run_with=None) -> list[list]:
    lines = [{'id': f's{at}', 'token_ids': sequence} for at, sequence in enumerate(sequences)]
    path = write_lines(folder / 'sequences.jsonl', lines)
    output = checked_run(['score', '--model', model, '--sequences', path, '--dtype', 'float32'], run_with)
    results = [json.loads(line) for line in output.splitlines()]
    assert [result['id'] for result in results] == [line['id'] for line in lines]
    return [result['logprobs'] for result in results]
