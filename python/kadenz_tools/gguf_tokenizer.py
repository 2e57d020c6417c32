"""Rebuilds tokenizer.json and tokenizer_config.json from the metadata of a GGUF file.

Known kind: byte-level BPE (`tokenizer.ggml.model` = gpt2) with the `smollm` pre-tokenizer, which isolates
each digit before it splits words as GPT-2 does. Anything else is refused: a wrong split changes token ids
without an error.
"""

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

NORMAL_TOKEN, CONTROL_TOKEN = 1, 3


def build_tokenizer(fields: dict) -> Tokenizer:
    kind = (fields['tokenizer.ggml.model'], fields['tokenizer.ggml.pre'])
    if kind != ('gpt2', 'smollm'):
        raise ValueError(
            f'tokenizer {kind[0]} with pre-tokenizer {kind[1]} is not known, only gpt2 with smollm'
        )
    tokens, token_types = fields['tokenizer.ggml.tokens'], fields['tokenizer.ggml.token_type']
    unknown_types = set(token_types) - {NORMAL_TOKEN, CONTROL_TOKEN}
    if unknown_types:
        raise ValueError(f'token types {sorted(unknown_types)} are not known, only normal and control')
    merges = [tuple(merge.split(' ')) for merge in fields['tokenizer.ggml.merges']]
    tokenizer = Tokenizer(models.BPE(vocab={token: at for at, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            # Not `Digits`: the JavaScript library takes that for ASCII digits only.
            pre_tokenizers.Split(Regex(r'\p{N}'), 'isolated'),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, token_types, strict=True) if kind == CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    return tokenizer


def write_tokenizer(folder: Path, fields: dict) -> None:
    tokenizer = build_tokenizer(fields)
    tokenizer.save(str(folder / 'tokenizer.json'), pretty=False)
    tokens = fields['tokenizer.ggml.tokens']
    control = [at for at, kind in enumerate(fields['tokenizer.ggml.token_type']) if kind == CONTROL_TOKEN]
    settings = {
        'add_bos_token': fields['tokenizer.ggml.add_bos_token'],
        'added_tokens_decoder': {
            str(at): {
                'content': tokens[at],
                'lstrip': False,
                'normalized': False,
                'rstrip': False,
                'single_word': False,
                'special': True,
            }
            for at in control
        },
        'additional_special_tokens': ['<|im_start|>', '<|im_end|>'],
        'bos_token': tokens[fields['tokenizer.ggml.bos_token_id']],
        'chat_template': fields['tokenizer.chat_template'],
        'clean_up_tokenization_spaces': False,
        'eos_token': tokens[fields['tokenizer.ggml.eos_token_id']],
        'model_max_length': fields['llama.context_length'],
        'pad_token': tokens[fields['tokenizer.ggml.padding_token_id']],
        'tokenizer_class': 'PreTrainedTokenizerFast',
        'unk_token': tokens[fields['tokenizer.ggml.unknown_token_id']],
    }
    (folder / 'tokenizer_config.json').write_text(json.dumps(settings, indent=2) + '\n')
