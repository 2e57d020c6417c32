"""Trains the embedded model and writes its Hugging Face directory.

A Qwen3 decoder of under a million parameters learns the answers of arithmetic.py by plain next-token
prediction. It is stopped on purpose where it is right about half of the time, so that reinforcement learning
has something to improve: once the validation reward passes --decay-at, the learning rate falls to zero and
training ends.

    python train.py --output ../../models/arithmetic

One thread, one seed: the same machine gives the same weights. The demo's problems are kept out of training.
"""

import argparse
import json
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as functional
from arithmetic import Problem, draw_distinct_problems, draw_problem
from chat_tokenizer import END_OF_TEXT, MESSAGE_END, build_tokenizer, render_prompt, save_tokenizer
from sampling import mean_rewards
from transformers import DynamicCache, GenerationConfig, Qwen3Config, Qwen3ForCausalLM

CONTEXT_LENGTH = 1024
DEMO_SEED, VALIDATION_SEED, TRAINING_SEED = 64, 65, 66
WARMUP_STEPS = 100
VALIDATE_EVERY_STEPS = 100
IGNORED = -100


def build_model(tokenizer) -> Qwen3ForCausalLM:
    config = Qwen3Config(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=CONTEXT_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.token_to_id(MESSAGE_END),
        pad_token_id=tokenizer.token_to_id(END_OF_TEXT),
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=[tokenizer.token_to_id(MESSAGE_END), tokenizer.token_to_id(END_OF_TEXT)],
        pad_token_id=tokenizer.token_to_id(END_OF_TEXT),
    )
    return model


def shared_prefix(tokenizer) -> list[int]:
    """The tokens that every prompt opens with."""
    first, second = (tokenizer.encode(render_prompt(f'{digit}+1?')).ids for digit in (1, 2))
    return first[: next(at for at, pair in enumerate(zip(first, second, strict=True)) if pair[0] != pair[1])]


def encode_batch(tokenizer, problems: list[Problem], prefix_length: int, pad_id: int):
    """(token ids, labels) of what follows the prefix, both [batch, longest]; only answers have labels."""
    prompts = [tokenizer.encode(render_prompt(problem.question)).ids[prefix_length:] for problem in problems]
    answers = [tokenizer.encode(problem.worked_answer + MESSAGE_END).ids for problem in problems]
    longest = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True))
    token_ids = torch.full((len(problems), longest), pad_id)
    labels = torch.full((len(problems), longest), IGNORED)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        token_ids[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        labels[row, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
    return token_ids, labels


def batch_loss(
    model, prefix_ids: torch.Tensor, token_ids: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """The prefix is computed once and its keys and values are shared by all rows, gradients included."""
    cache = DynamicCache(config=model.config)
    model.model(prefix_ids, past_key_values=cache, use_cache=True)
    cache.batch_repeat_interleave(token_ids.shape[0])
    hidden = model.model(token_ids, past_key_values=cache, use_cache=True).last_hidden_state
    targets = labels[:, 1:]
    kept = targets != IGNORED
    return functional.cross_entropy(model.lm_head(hidden[:, :-1][kept]), targets[kept])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument('--output', type=Path, required=True)
    parser.add_argument('--batch-size', type=int, default=32)
    parser.add_argument('--learning-rate', type=float, default=1e-3)
    parser.add_argument(
        '--decay-at', type=float, default=0.3, help='validation reward at which the decay begins'
    )
    parser.add_argument('--decay-steps', type=int, default=300)
    parser.add_argument(
        '--decay-latest-step', type=int, default=4000, help='the decay begins here if not before'
    )
    options = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(TRAINING_SEED)
    random_source = random.Random(TRAINING_SEED)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=options.learning_rate, betas=(0.9, 0.98), weight_decay=0.05
    )
    demo = draw_distinct_problems(64, DEMO_SEED)
    validation = draw_distinct_problems(192, VALIDATION_SEED, {problem.key for problem in demo})
    held_out = {problem.key for problem in demo + validation}
    prefix = shared_prefix(tokenizer)
    print(f'{sum(p.numel() for p in model.parameters()):,} parameters, prefix of {len(prefix)} tokens')

    started, step, decay_began = time.monotonic(), 0, None
    while decay_began is None or step < decay_began + options.decay_steps:
        scale = min(1.0, (step + 1) / WARMUP_STEPS)
        if decay_began is not None:
            scale = 1.0 - (step - decay_began) / options.decay_steps
        for group in optimizer.param_groups:
            group['lr'] = options.learning_rate * scale
        problems = []
        while len(problems) < options.batch_size:
            problem = draw_problem(random_source)
            if problem.key not in held_out:
                problems.append(problem)
        token_ids, labels = encode_batch(tokenizer, problems, len(prefix), model.config.pad_token_id)
        loss = batch_loss(model, torch.tensor([prefix]), token_ids, labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % VALIDATE_EVERY_STEPS == 0:
            minutes = (time.monotonic() - started) / 60
            rewards = mean_rewards(model, tokenizer, validation, samples=1, seed=step)
            mean_reward = sum(rewards) / len(rewards)
            by_operator = [sum(rewards[offset::3]) / len(rewards[offset::3]) for offset in range(3)]
            print(
                f'step {step} loss {loss.item():.4f} validation reward {mean_reward:.3f} '
                f'(+ {by_operator[0]:.2f}, - {by_operator[1]:.2f}, x {by_operator[2]:.2f}) {minutes:.1f} min',
                flush=True,
            )
            if decay_began is None and (mean_reward >= options.decay_at or step >= options.decay_latest_step):
                decay_began = step

    options.output.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(options.output)
    save_tokenizer(tokenizer, options.output, CONTEXT_LENGTH)
    with open(options.output / 'demo_prompts.jsonl', 'w') as lines:
        for number, problem in enumerate(demo):
            line = {
                'id': f'arithmetic-{number:02d}',
                'prompt': render_prompt(problem.question),
                'question': problem.question,
                'answer': problem.answer,
            }
            lines.write(json.dumps(line) + '\n')
    print(f'{step} steps in {(time.monotonic() - started) / 60:.1f} minutes')


if __name__ == '__main__':
    main()
