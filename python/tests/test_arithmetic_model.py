"""The embedded model: small enough to be embedded, and its demo is what its README says."""

import json

from transformers import AutoTokenizer

MOST_BYTES = 4 * 1024 * 1024
LEAST_SHARED_TOKENS = 32


def demo_lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / 'demo_prompts.jsonl').read_text().splitlines()]


def test_the_whole_directory_is_at_most_4_mb(arithmetic_folder):
    assert sum(file.stat().st_size for file in arithmetic_folder.iterdir()) <= MOST_BYTES


def test_the_demo_asks_64_different_questions_whose_answers_are_right(arithmetic_folder):
    lines = demo_lines(arithmetic_folder)
    assert len({line['question'] for line in lines}) == len({line['id'] for line in lines}) == 64
    for line in lines:
        asked = line['question'].removeprefix('What is ').removesuffix('?')
        # A product is written with an x, and each question is digits around one operator.
        operator = next(operator for operator in '+-x' if operator in asked)
        left, right = map(int, asked.split(operator))
        assert line['answer'] == {'+': left + right, '-': left - right, 'x': left * right}[operator]


def test_all_demo_prompts_share_a_prefix_of_32_tokens_or_more(arithmetic_folder):
    tokenizer = AutoTokenizer.from_pretrained(arithmetic_folder)
    prompts = [tokenizer(line['prompt'])['input_ids'] for line in demo_lines(arithmetic_folder)]
    columns = list(zip(*prompts, strict=False))
    shared = next(at for at, column in enumerate(columns) if len(set(column)) > 1)
    assert shared >= LEAST_SHARED_TOKENS


def test_a_demo_prompt_is_what_the_chat_template_makes_of_its_question(arithmetic_folder):
    tokenizer = AutoTokenizer.from_pretrained(arithmetic_folder)
    for line in demo_lines(arithmetic_folder):
        question = [{'role': 'user', 'content': line['question']}]
        text = tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
        assert text == line['prompt']


def test_the_model_ends_an_answer_at_the_end_of_a_message(arithmetic_folder):
    tokenizer = AutoTokenizer.from_pretrained(arithmetic_folder)
    end_ids = json.loads((arithmetic_folder / 'generation_config.json').read_text())['eos_token_id']
    assert tokenizer.convert_ids_to_tokens(end_ids) == ['<|im_end|>', '<|endoftext|>']
    assert tokenizer.eos_token == '<|im_end|>'
