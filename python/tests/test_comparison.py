"""The comparisons themselves: the transformers double passes them, and each way of being wrong fails them."""

import copy
import sys
from pathlib import Path

import kadenz_cli
import pytest
import torch
from random_models import draw_prompts
from reference import TOLERANCE, compare_greedy, compare_scores, generate_greedily, log_probs_of
from test_sampling import chi_square_p_value
from transformers_double import FAULTS

DOUBLE = [sys.executable, str(Path(__file__).with_name('transformers_double.py'))]


def compare_double(model, work_folder, *fault) -> None:
    folder, reference = model.folder, model.reference
    prompt = draw_prompts(reference.config.vocab_size, [40], 3)[0]
    sample = kadenz_cli.generate_greedily(folder, work_folder, [prompt], 64, [*DOUBLE, *fault])[0]
    compare_greedy(reference, prompt, sample['token_ids'], sample['logprobs'])


def test_transformers_itself_passes_the_comparison(small_model, tmp_path):
    compare_double(small_model, tmp_path)
    folder, reference = small_model.folder, small_model.reference
    sequence = draw_prompts(reference.config.vocab_size, [50], 4)[0]
    compare_scores(reference, sequence, kadenz_cli.score(folder, tmp_path, [sequence], DOUBLE)[0])


@pytest.mark.parametrize('fault', FAULTS)
def test_a_wrong_engine_fails_the_comparison(small_model, tmp_path, fault):
    with pytest.raises(AssertionError, match='off the reference|the reference says'):
        compare_double(small_model, tmp_path, '--fault', fault)


def test_a_missing_or_nan_log_prob_fails_the_comparison(small_model):
    reference = small_model.reference
    prompt = [1, 2, 3]
    expected = generate_greedily(reference, prompt, 4)
    with pytest.raises(AssertionError, match='3 log-probs'):
        compare_greedy(reference, prompt, expected, [0.0] * 3)
    with pytest.raises(AssertionError, match='off the reference'):
        compare_greedy(reference, prompt, expected, [float('nan')] * 4)


def copy_without(feature: str | None, model):
    """A copy of the model that lacks what its architecture is tested for."""
    config = copy.deepcopy(model.config)
    config.dtype = torch.float32
    if feature == 'rope scaling':
        config.rope_parameters = {'rope_type': 'default', 'rope_theta': config.rope_parameters['rope_theta']}
    if feature == 'sliding window':
        config.sliding_window = None
    changed = type(model)(config).eval()
    changed.set_attn_implementation('eager')
    changed.load_state_dict(model.state_dict())
    for name, weight in changed.named_parameters():
        if feature == 'bias' and name.endswith('bias'):
            torch.nn.init.zeros_(weight)
        if feature == 'q/k-norm' and ('q_norm' in name or 'k_norm' in name):
            torch.nn.init.ones_(weight)
    return changed


FEATURES = {
    'llama2': None,
    'llama3.1': 'rope scaling',
    'llama-linear': 'rope scaling',
    'llama-yarn': 'rope scaling',
    'mistral': 'sliding window',
    'qwen2': 'bias',
    'qwen2-yarn': 'rope scaling',
    'qwen3': 'q/k-norm',
}


def test_the_random_models_show_when_a_feature_of_theirs_is_missing(random_model):
    """Otherwise parity would say nothing of it: the shapes and weights drawn have to make it matter."""
    model, feature = random_model.reference, FEATURES[random_model.architecture]
    sequence = draw_prompts(model.config.vocab_size, [200], random_model.seed)[0]
    expected = log_probs_of(model, sequence)
    same = (log_probs_of(copy_without(None, model), sequence) - expected).abs().max()
    assert same <= TOLERANCE, 'a faithful copy differs'
    if feature is not None:
        difference = (log_probs_of(copy_without(feature, model), sequence) - expected).abs().max()
        print(f'{difference:.3f} without {feature}')
        assert difference > 100 * TOLERANCE, random_model.description


def test_the_chi_square_accepts_the_right_distribution_and_refuses_a_skewed_one():
    probabilities = torch.softmax(torch.linspace(-3, 2, 40), 0)
    generator = torch.Generator().manual_seed(1)
    drawn = torch.multinomial(probabilities, 2000, replacement=True, generator=generator)
    counts = torch.bincount(drawn, minlength=40)
    assert chi_square_p_value(counts, probabilities) > 0.01
    assert chi_square_p_value(counts, torch.softmax(torch.linspace(-3, 2, 40) * 1.4, 0)) < 1e-4
