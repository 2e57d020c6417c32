"""Stands in for the command line with transformers alone, to try the tests themselves.

    KADENZ_CLI="python python/tests/transformers_double.py" pytest python/tests

It has no presence and frequency penalty and no logit bias. `--fault KIND` makes it wrong in one way;
test_comparison.py shows that the comparison notices each.
"""

import argparse
import json
from pathlib import Path

import torch
from reference import load_reference, log_probs_of
from transformers import AutoTokenizer, GenerationConfig
from transformers.utils import logging

FAULTS = ('rope', 'epsilon', 'log_prob', 'token')


def parse_options():
    parser = argparse.ArgumentParser()
    parser.add_argument('command', choices=['generate', 'score'])
    for name in ('--model', '--prompts', '--sequences', '--output'):
        parser.add_argument(name, type=Path)
    for name in ('--dtype', '--logprobs-mode'):
        parser.add_argument(name)
    for name in ('--max-tokens', '--logprobs', '--n', '--seed'):
        parser.add_argument(name, type=int)
    parser.add_argument('--temperature', type=float, default=1.0)
    parser.add_argument('--ignore-eos', action='store_true')
    parser.add_argument('--fault', choices=FAULTS)
    return parser.parse_args()


def break_model(model, fault: str | None) -> None:
    if fault == 'rope':
        model.model.rotary_emb.inv_freq *= 1.001
    if fault == 'epsilon':
        model.model.norm.variance_epsilon = 1e-3


def prompt_ids(line: dict, folder: Path) -> list[int]:
    if 'prompt_token_ids' in line:
        return line['prompt_token_ids']
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if 'prompt' in line:
        return tokenizer(line['prompt'])['input_ids']
    return tokenizer.apply_chat_template(line['messages'], add_generation_prompt=True, return_dict=True)[
        'input_ids'
    ]


def generate_line(model, line: dict, options) -> dict:
    prompt = prompt_ids(line, options.model)
    sampling = {'temperature': options.temperature, **line.get('sampling', {})}
    settings = GenerationConfig(
        do_sample=sampling['temperature'] > 0,
        temperature=sampling['temperature'] or None,
        top_k=sampling.get('top_k', 0),
        top_p=sampling.get('top_p', 1.0),
        min_p=sampling.get('min_p'),
        repetition_penalty=sampling.get('repetition_penalty', 1.0),
        max_new_tokens=options.max_tokens,
        eos_token_id=None if options.ignore_eos else model.generation_config.eos_token_id,
        pad_token_id=0,
        num_return_sequences=options.n or 1,
        use_cache=True,
        return_dict_in_generate=True,
        output_scores=True,
    )
    token_ids = torch.tensor([prompt])
    torch.manual_seed(sampling.get('seed', options.seed or 0))
    output = model.generate(token_ids, attention_mask=torch.ones_like(token_ids), generation_config=settings)
    samples = []
    for index, row in enumerate(output.sequences.tolist()):
        new = row[len(prompt) :]
        end_ids = settings.eos_token_id or []
        end_at = next((at for at, token in enumerate(new) if token in end_ids), None)
        new = new if end_at is None else new[: end_at + 1]
        if options.logprobs_mode == 'processed':
            log_probs = [
                torch.log_softmax(output.scores[at][index], -1)[token].item() for at, token in enumerate(new)
            ]
        else:
            reference = log_probs_of(model, prompt + new)[len(prompt) - 1 : -1]
            log_probs = reference[torch.arange(len(new)), torch.tensor(new)].tolist()
        if options.fault == 'log_prob':
            log_probs[len(new) // 2] += 3e-4
        if options.fault == 'token':
            new[-1] = (new[-1] + 1) % model.config.vocab_size
        sample = {
            'index': index,
            'token_ids': new,
            'text': text_of(options.model, new),
            'logprobs': log_probs,
            'finish_reason': 'length' if end_at is None else 'stop',
            'stop_reason': None if end_at is None else new[end_at],
            'weight_versions': [0] * len(new),
        }
        if options.logprobs:
            best = torch.topk(log_probs_of(model, prompt + new)[len(prompt) - 1 : -1], options.logprobs)
            pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            sample['top_logprobs'] = [{'token_ids': ids, 'logprobs': values} for ids, values in pairs]
        samples.append(sample)
    return {'id': line.get('id'), 'prompt_token_ids': prompt, 'samples': samples, 'cached_tokens': 0}


def text_of(folder: Path, token_ids: list[int]) -> str:
    if not (folder / 'tokenizer.json').exists():
        return ''
    return AutoTokenizer.from_pretrained(folder).decode(token_ids, skip_special_tokens=True)


def main() -> None:
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    options = parse_options()
    model = load_reference(options.model)
    break_model(model, options.fault)
    if options.command == 'score':
        for line in map(json.loads, options.sequences.read_text().splitlines()):
            token_ids = line['token_ids']
            reference = log_probs_of(model, token_ids)[:-1]
            found = reference[torch.arange(len(token_ids) - 1), torch.tensor(token_ids[1:])].tolist()
            print(json.dumps({'id': line['id'], 'logprobs': [None, *found]}))
        return
    with open(options.output, 'w') as output:
        for line in map(json.loads, options.prompts.read_text().splitlines()):
            output.write(json.dumps(generate_line(model, line, options)) + '\n')


if __name__ == '__main__':
    main()
