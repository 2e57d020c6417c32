"""Sampling against transformers: processed log-probs of its LogitsProcessors, and first-token frequencies."""

import kadenz_cli
import pytest
import torch
from random_models import draw_prompts
from reference import TOLERANCE, log_probs_of, logits_of
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

PROCESSOR_CASES = [
    {'temperature': 0.7},
    {'repetition_penalty': 1.3},
    {'repetition_penalty': 0.8, 'temperature': 1.5},
    {'top_k': 5},
    {'top_p': 0.6},
    {'min_p': 0.1},
    {'temperature': 0.9, 'top_k': 40, 'top_p': 0.9},
    {'repetition_penalty': 1.2, 'temperature': 1.3, 'top_k': 30, 'min_p': 0.02},
]
# A chi-square this improbable under the right distribution is a wrong distribution; the seeds are fixed.
LEAST_P_VALUE = 1e-4


def processors_of(sampling: dict) -> LogitsProcessorList:
    """In the order in which transformers' own generate() applies them."""
    processors = LogitsProcessorList()
    if 'repetition_penalty' in sampling:
        processors.append(RepetitionPenaltyLogitsProcessor(sampling['repetition_penalty']))
    if 'temperature' in sampling:
        processors.append(TemperatureLogitsWarper(sampling['temperature']))
    if 'top_k' in sampling:
        processors.append(TopKLogitsWarper(sampling['top_k']))
    if 'top_p' in sampling:
        processors.append(TopPLogitsWarper(sampling['top_p']))
    if 'min_p' in sampling:
        processors.append(MinPLogitsWarper(sampling['min_p']))
    return processors


def processed_log_probs(model, prompt: list[int], token_ids: list[int], sampling: dict) -> torch.Tensor:
    """[len(token_ids), vocab], each row given the tokens before it; -inf for what the processors removed."""
    processors = processors_of(sampling)
    logits = logits_of(model, prompt + token_ids)[len(prompt) - 1 : -1]
    rows = [
        processors(torch.tensor([prompt + token_ids[:at]]), logits[at : at + 1].clone())
        for at in range(len(token_ids))
    ]
    return torch.log_softmax(torch.cat(rows), dim=-1)


def test_processed_log_probs_are_those_of_transformers_processors(small_model, tmp_path):
    prompt = draw_prompts(small_model.reference.config.vocab_size, [23], 7)[0]
    lines = [
        {
            'id': str(at),
            'prompt_token_ids': prompt,
            'sampling': {'temperature': 1.0, **case, 'seed': 100 + at},
        }
        for at, case in enumerate(PROCESSOR_CASES)
    ]
    arguments = [
        '--max-tokens',
        64,
        '--n',
        2,
        '--logprobs',
        0,
        '--logprobs-mode',
        'processed',
        '--ignore-eos',
    ]
    results = kadenz_cli.generate(small_model.folder, tmp_path, lines, *arguments)
    for case, result in zip(PROCESSOR_CASES, results, strict=True):
        assert len(result['samples']) == 2
        for sample in result['samples']:
            token_ids = sample['token_ids']
            reference = processed_log_probs(small_model.reference, prompt, token_ids, case)
            expected = reference[torch.arange(len(token_ids)), torch.tensor(token_ids)]
            assert torch.isfinite(expected).all(), f'{case}: a token was sampled that transformers removes'
            worst = (expected - torch.tensor(sample['logprobs'])).abs().max().item()
            assert worst <= TOLERANCE, f'{case}: a processed log-prob is {worst:.2e} off'


def test_penalties_and_bias_change_the_logits_as_their_formulas_say(small_model, tmp_path):
    """Presence and frequency count generated tokens only; the bias is added to the logits."""
    vocab_size = small_model.reference.config.vocab_size
    prompt = draw_prompts(vocab_size, [23], 8)[0]
    bias = {3: 4.0, vocab_size - 1: 5.0, prompt[0]: -100.0}
    sampling = {
        'temperature': 1.0,
        'seed': 5,
        'presence_penalty': 0.7,
        'frequency_penalty': 0.4,
        'logit_bias': {str(token): value for token, value in bias.items()},
    }
    lines = [{'id': 'p', 'prompt_token_ids': prompt, 'sampling': sampling}]
    arguments = ['--max-tokens', 64, '--logprobs', 0, '--logprobs-mode', 'processed', '--ignore-eos']
    sample = kadenz_cli.generate(small_model.folder, tmp_path, lines, *arguments)[0]['samples'][0]
    token_ids = sample['token_ids']
    logits = logits_of(small_model.reference, prompt + token_ids)[len(prompt) - 1 : -1]
    for at, token in enumerate(token_ids):
        counts = torch.bincount(torch.tensor(token_ids[:at], dtype=torch.long), minlength=vocab_size)
        row = logits[at] - 0.4 * counts - 0.7 * (counts > 0)
        for biased, value in bias.items():
            row[biased] += value
        assert abs(torch.log_softmax(row, -1)[token].item() - sample['logprobs'][at]) <= TOLERANCE
    assert len(set(token_ids)) < len(token_ids), 'no token came twice, so nothing was penalised'


def test_top_log_probs_are_the_references_best(small_model, tmp_path):
    prompt = draw_prompts(small_model.reference.config.vocab_size, [12], 9)[0]
    lines = [{'id': 'p', 'prompt_token_ids': prompt}]
    arguments = ['--max-tokens', 32, '--logprobs', 5, '--temperature', 1, '--seed', 3, '--ignore-eos']
    sample = kadenz_cli.generate(small_model.folder, tmp_path, lines, *arguments)[0]['samples'][0]
    reference = log_probs_of(small_model.reference, prompt + sample['token_ids'])[len(prompt) - 1 : -1]
    assert len(sample['top_logprobs']) == len(sample['token_ids']) == 32
    for at, top in enumerate(sample['top_logprobs']):
        best = torch.topk(reference[at], 5)
        assert top['logprobs'][:5] == sorted(top['logprobs'][:5], reverse=True)
        assert torch.allclose(torch.tensor(top['logprobs'][:5]), best.values, rtol=0, atol=TOLERANCE)
        gaps = (best.values[:-1] - best.values[1:]).tolist()
        if min(gaps) > TOLERANCE:
            assert top['token_ids'][:5] == best.indices.tolist()


def chi_square_p_value(counts: torch.Tensor, probabilities: torch.Tensor) -> float:
    """Bins that expect fewer than five samples are pooled into one."""
    expected = probabilities.double() * counts.sum()
    large = expected >= 5
    observed = torch.cat([counts[large], counts[~large].sum().reshape(1)]).double()
    expected = torch.cat([expected[large], expected[~large].sum().reshape(1)])
    if expected[-1] < 1e-9:
        assert observed[-1] == 0, 'a token of probability zero was sampled'
        observed, expected = observed[:-1], expected[:-1]
    statistic = ((observed - expected) ** 2 / expected).sum()
    freedom = torch.tensor(len(expected) - 1.0, dtype=torch.double)
    return torch.special.gammaincc(freedom / 2, statistic / 2).item()


@pytest.mark.parametrize(
    'sampling',
    [
        {'temperature': 1.0},
        {'temperature': 0.6},
        {'temperature': 1.0, 'top_k': 12},
        {'temperature': 1.2, 'top_p': 0.8},
    ],
    ids=str,
)
def test_first_tokens_are_drawn_as_often_as_their_probabilities_say(small_model, tmp_path, sampling):
    prompt = draw_prompts(small_model.reference.config.vocab_size, [19], 11)[0]
    samples_of_each, requests = 500, 4
    lines = [
        {'id': str(at), 'prompt_token_ids': prompt, 'sampling': {**sampling, 'seed': 1000 + at}}
        for at in range(requests)
    ]
    arguments = ['--max-tokens', 1, '--n', samples_of_each, '--ignore-eos']
    results = kadenz_cli.generate(small_model.folder, tmp_path, lines, *arguments)
    drawn = [sample['token_ids'][0] for result in results for sample in result['samples']]
    assert len(drawn) == samples_of_each * requests
    first = processed_log_probs(small_model.reference, prompt, [drawn[0]], sampling)[0].exp()
    counts = torch.bincount(torch.tensor(drawn), minlength=len(first))
    p_value = chi_square_p_value(counts, first)
    print(f'{sampling}: p-value {p_value:.4f}')
    assert p_value >= LEAST_P_VALUE
