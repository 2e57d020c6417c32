"""Samples answers with transformers and scores them: what training watches and the README states."""

import torch
from arithmetic import Problem, reward
from chat_tokenizer import render_prompt

MAX_ANSWER_TOKENS = 24


@torch.no_grad()
def mean_rewards(model, tokenizer, problems: list[Problem], samples: int, seed: int) -> list[float]:
    """The mean reward of each problem over `samples` answers drawn at temperature 1 with no filter."""
    torch.manual_seed(seed)
    end_ids = model.generation_config.eos_token_id
    prompts = [tokenizer.encode(render_prompt(problem.question)).ids for problem in problems]
    rewards = [0.0] * len(problems)
    # Prompts of one length share a batch, so that no padding is needed.
    for length in sorted({len(prompt) for prompt in prompts}):
        rows = [row for row, prompt in enumerate(prompts) if len(prompt) == length]
        token_ids = torch.tensor([prompts[row] for row in rows]).repeat_interleave(samples, dim=0)
        generated = model.generate(
            token_ids,
            attention_mask=torch.ones_like(token_ids),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=MAX_ANSWER_TOKENS,
        )[:, length:]
        for sample, answer_ids in enumerate(generated.tolist()):
            row = rows[sample // samples]
            stop = next((at for at, token in enumerate(answer_ids) if token in end_ids), len(answer_ids))
            rewards[row] += reward(tokenizer.decode(answer_ids[:stop]), problems[row].answer) / samples
    return rewards
