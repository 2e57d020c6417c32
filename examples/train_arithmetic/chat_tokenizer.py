"""The tokenizer of the embedded model: byte-level BPE in which a digit is always a token of its own.

All 256 bytes are in the vocabulary, so any text round-trips and no unknown token exists. The merges are
learned from the sentences below and cover the words of the prompts; special tokens and chat template follow
ChatML.
"""

import json
from pathlib import Path

from arithmetic import SYSTEM_MESSAGE
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

END_OF_TEXT, MESSAGE_START, MESSAGE_END = '<|endoftext|>', '<|im_start|>', '<|im_end|>'
SPECIAL_TOKENS = [END_OF_TEXT, MESSAGE_START, MESSAGE_END]

# Without a system message of the caller's own, the one that the model was trained with is put first.
CHAT_TEMPLATE = (
    '{% for message in messages %}'
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\n" + SYSTEM_MESSAGE + "<|im_end|>\\n' }}"
    '{% endif %}'
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    '{% endfor %}'
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

SENTENCES = [
    SYSTEM_MESSAGE,
    'What is the sum? What is the difference? What is the product? The answer is the last number.',
    'system user assistant tool, system user assistant tool, system user assistant tool',
    'Please add the two numbers, subtract one from the other, or multiply them. How many are left in all?',
]


def build_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex('[0-9]'), 'isolated'),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        min_frequency=1,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, context_length: int) -> None:
    tokenizer.save(str(folder / 'tokenizer.json'), pretty=False)
    settings = {
        'added_tokens_decoder': {
            str(tokenizer.token_to_id(token)): {
                'content': token,
                'lstrip': False,
                'normalized': False,
                'rstrip': False,
                'single_word': False,
                'special': True,
            }
            for token in SPECIAL_TOKENS
        },
        'bos_token': None,
        'chat_template': CHAT_TEMPLATE,
        'clean_up_tokenization_spaces': False,
        'eos_token': MESSAGE_END,
        'model_max_length': context_length,
        'pad_token': END_OF_TEXT,
        'tokenizer_class': 'PreTrainedTokenizerFast',
        'unk_token': None,
    }
    (folder / 'tokenizer_config.json').write_text(json.dumps(settings, indent=2) + '\n')


def render_prompt(question: str, system_message: str = SYSTEM_MESSAGE) -> str:
    """The text that the chat template makes of one question; training and the demo start from it."""
    return (
        f'{MESSAGE_START}system\n{system_message}{MESSAGE_END}\n'
        f'{MESSAGE_START}user\n{question}{MESSAGE_END}\n{MESSAGE_START}assistant\n'
    )
