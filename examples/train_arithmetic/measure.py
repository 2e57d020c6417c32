"""Measures the embedded model: the mean reward of the demo's 64 prompts with 8 samples each at temperature 1.

python measure.py --model ../../models/arithmetic
"""

import argparse
import json
import platform
import time
from pathlib import Path

import tokenizers
import torch
import transformers
from arithmetic import Problem
from sampling import mean_rewards
from transformers import AutoModelForCausalLM

OPERATORS = '+-x'


def parse_question(question: str) -> Problem:
    asked = question.removeprefix('What is ').removesuffix('?')
    operator = next(operator for operator in OPERATORS if operator in asked)
    left, right = asked.split(operator)
    return Problem(int(left), operator, int(right))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument('--model', type=Path, required=True)
    parser.add_argument('--samples', type=int, default=8)
    parser.add_argument('--seed', type=int, default=1)
    options = parser.parse_args()

    torch.set_num_threads(1)
    lines = [json.loads(line) for line in (options.model / 'demo_prompts.jsonl').read_text().splitlines()]
    problems = [parse_question(line['question']) for line in lines]
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    tokenizer = tokenizers.Tokenizer.from_file(str(options.model / 'tokenizer.json'))
    started = time.monotonic()
    rewards = mean_rewards(model, tokenizer, problems, options.samples, options.seed)
    elapsed_s = time.monotonic() - started

    print(f'{len(problems)} prompts x {options.samples} samples, seed {options.seed}, {elapsed_s:.1f} s')
    print(f'mean reward {sum(rewards) / len(rewards):.3f}')
    print(f'at least one sample right {sum(reward > 0 for reward in rewards) / len(rewards):.3f}')
    for operator in OPERATORS:
        part = [
            reward for problem, reward in zip(problems, rewards, strict=True) if problem.operator == operator
        ]
        print(f'  {operator}  {sum(part) / len(part):.3f} of {len(part)} prompts')
    print(
        f'python {platform.python_version()}, torch {torch.__version__}, '
        f'transformers {transformers.__version__}, tokenizers {tokenizers.__version__}'
    )


if __name__ == '__main__':
    main()
