"""Greedy tokens and log-probs of the command line against transformers in float32 on the CPU."""

import json
from pathlib import Path

import kadenz_cli
import pytest
from random_models import draw_prompts
from reference import compare_greedy, compare_scores, generate_greedily
from transformers import AutoTokenizer

NEW_TOKENS = 128
# One token, a full block, one more than a block, and more than the sliding windows and original RoPE lengths.
PROMPT_LENGTHS = [1, 5, 16, 17, 61, 130]


def check_greedy(model, work_folder, prompts: list[list[int]]) -> None:
    samples = kadenz_cli.generate_greedily(model.folder, work_folder, prompts, NEW_TOKENS)
    for prompt, sample in zip(prompts, samples, strict=True):
        assert len(sample['token_ids']) == NEW_TOKENS and sample['finish_reason'] == 'length'
        assert len(sample['weight_versions']) == NEW_TOKENS and len(set(sample['weight_versions'])) == 1
        found = compare_greedy(model.reference, prompt, sample['token_ids'], sample['logprobs'])
        print(f'prompt of {len(prompt)}: {found}')
    # compare_greedy follows the engine's tokens; transformers continues the last prompt on its own, too.
    own = generate_greedily(model.reference, prompts[-1], NEW_TOKENS)
    first_tie = min(found.ties, default=NEW_TOKENS)
    assert sample['token_ids'][:first_tie] == own[:first_tie]


def test_a_random_model_generates_the_tokens_and_log_probs_of_transformers(random_model, tmp_path):
    vocab_size = random_model.reference.config.vocab_size
    check_greedy(random_model, tmp_path, draw_prompts(vocab_size, PROMPT_LENGTHS, random_model.seed))


def test_a_random_model_scores_sequences_as_transformers_does(random_model, tmp_path):
    vocab_size = random_model.reference.config.vocab_size
    sequences = draw_prompts(vocab_size, [2, 16, 33, 200], random_model.seed + 1)
    for sequence, log_probs in zip(
        sequences, kadenz_cli.score(random_model.folder, tmp_path, sequences), strict=True
    ):
        compare_scores(random_model.reference, sequence, log_probs)


def chat_prompts(model) -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(model.folder)
    questions = [
        'What is the capital of France?',
        'Write a short poem about the sea at night.',
        'Explain in three sentences why the sky is blue, then list 3 other things that are blue: ',
    ]
    return [
        tokenizer.apply_chat_template(
            [{'role': 'user', 'content': question}], add_generation_prompt=True, return_dict=True
        )['input_ids']
        for question in questions
    ]


def test_smollm2_generates_the_tokens_and_log_probs_of_transformers(smollm2, tmp_path):
    check_greedy(smollm2, tmp_path, chat_prompts(smollm2))


def test_smollm2_scores_sequences_as_transformers_does(smollm2, tmp_path):
    sequences = chat_prompts(smollm2)
    for sequence, log_probs in zip(
        sequences, kadenz_cli.score(smollm2.folder, tmp_path, sequences), strict=True
    ):
        compare_scores(smollm2.reference, sequence, log_probs)


def test_the_embedded_model_generates_the_tokens_and_log_probs_of_transformers(arithmetic, tmp_path):
    lines = (arithmetic.folder / 'demo_prompts.jsonl').read_text().splitlines()
    tokenizer = AutoTokenizer.from_pretrained(arithmetic.folder)
    check_greedy(
        arithmetic, tmp_path, [tokenizer(json.loads(line)['prompt'])['input_ids'] for line in lines[:6]]
    )


def test_text_and_messages_are_tokenized_as_transformers_does(smollm2_folder, arithmetic_folder, tmp_path):
    messages = [
        {'role': 'system', 'content': 'Be brief.'},
        {'role': 'user', 'content': 'Say “hello” 12 times,\n  naïvely 🙂'},
    ]
    text = 'Once upon a time, in 1984, there was a <|im_start|> of café.\n\n\tThe end  '
    for folder in (smollm2_folder, arithmetic_folder):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        lines = [
            {'id': 'text', 'prompt': text},
            {'id': 'chat', 'messages': messages},
            {'id': 'user', 'messages': messages[1:]},
        ]
        results = kadenz_cli.generate(folder, tmp_path, lines, '--temperature', 0, '--max-tokens', 8)
        chat = [
            tokenizer.apply_chat_template(list(part), add_generation_prompt=True, return_dict=True)[
                'input_ids'
            ]
            for part in (messages, messages[1:])
        ]
        assert [result['prompt_token_ids'] for result in results] == [tokenizer(text)['input_ids'], *chat]
        for result in results:
            sample = result['samples'][0]
            shown = [token for token in sample['token_ids'] if token not in tokenizer.all_special_ids]
            assert sample['text'] == tokenizer.decode(shown)


def linked_copy(model_folder: Path, folder: Path, without: str) -> Path:
    folder.mkdir()
    for file in model_folder.iterdir():
        if file.name != without:
            (folder / file.name).symlink_to(file)
    return folder


def test_generation_ends_at_the_end_tokens_of_generation_config(small_model, tmp_path):
    """The directory is given an end token that the greedy continuation is known to reach."""
    prompt = draw_prompts(small_model.reference.config.vocab_size, [9], 5)[0]
    expected = generate_greedily(small_model.reference, prompt, 24)
    end_ids = [expected[10], expected[20]]
    first_end = min(expected.index(end) for end in end_ids)
    folder = linked_copy(small_model.folder, tmp_path / 'model', without='generation_config.json')
    (folder / 'generation_config.json').write_text(json.dumps({'eos_token_id': end_ids}))
    lines = [{'id': 'p', 'prompt_token_ids': prompt}]
    result = kadenz_cli.generate(folder, tmp_path, lines, '--temperature', 0, '--max-tokens', 24)[0]
    sample = result['samples'][0]
    assert sample['token_ids'] == expected[: first_end + 1]
    assert (sample['finish_reason'], sample['stop_reason']) == ('stop', expected[first_end])


@pytest.mark.parametrize(
    'change',
    [
        {'hidden_act': 'gelu'},
        {'architectures': ['PhiForCausalLM'], 'model_type': 'phi'},
        {'rope_parameters': {'rope_type': 'longrope', 'rope_theta': 10000.0, 'factor': 2.0}},
        {'partial_rotary_factor': 0.5},
        {'quantization_config': {'quant_method': 'fp8'}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_config_that_changes_the_mathematics_is_refused_by_name(small_model, tmp_path, change):
    folder = linked_copy(small_model.folder, tmp_path / 'model', without='config.json')
    config = json.loads((small_model.folder / 'config.json').read_text())
    for rope_field in ('rope_parameters', 'rope_scaling', 'rope_theta'):
        if 'rope_parameters' in change:
            config.pop(rope_field, None)
    (folder / 'config.json').write_text(json.dumps(config | change))
    prompts = kadenz_cli.write_lines(tmp_path / 'prompts.jsonl', [{'prompt_token_ids': [1, 2, 3]}])
    finished = kadenz_cli.run(['generate', '--model', folder, '--prompts', prompts, '--max-tokens', 1])
    assert finished.returncode != 0
    field, value = next(iter(change.items()))
    named = value['rope_type'] if field == 'rope_parameters' else field
    assert named in finished.stderr or str(change.get('architectures', ['?'])[0]) in finished.stderr, (
        finished.stderr
    )
