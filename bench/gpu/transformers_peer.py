"""The 1.5B workload by transformers, as fast as it goes: generate with a static cache, and a decode loop of one's own.

    python3 bench/gpu/transformers_peer.py DIR REQUESTS PROMPT_TOKENS OUTPUT_TOKENS [--device cuda]

Both take the most likely token, which is cheaper than the sampling that the workload asks of Kadenz. Each runs twice and the
second call counts: the first compiles. Prints a JSON line each; the loop's tokens per second are those of the whole
workload, prefill included, and its step is that of the decode steps alone.
"""

import argparse
import json
import time

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, StaticCache


class Clock:
    def __init__(self, device: str):
        self.device = device

    def now(self) -> float:
        if self.device == 'cuda':
            torch.cuda.synchronize()
        return time.perf_counter()


def tell(peer: str, seconds: float, sizes: tuple[int, int, int], step_ms: float, note: str) -> None:
    requests, _, outputs = sizes
    line = {'kind': 'peer', 'name': peer, 'seconds': seconds, 'tokensPerSecond': requests * outputs / seconds}
    print(json.dumps(line | {'stepMs': step_ms, 'note': note}), flush=True)


@torch.inference_mode()
def by_generate(model, prompts: torch.Tensor, outputs: int, clock: Clock) -> float:
    settings = GenerationConfig(
        do_sample=False,
        min_new_tokens=outputs,
        max_new_tokens=outputs,
        cache_implementation='static',
        pad_token_id=0,
        eos_token_id=None,
    )
    # What the argument leaves open comes from the model's own, its end tokens among it.
    model.generation_config = GenerationConfig(pad_token_id=0)
    begin = clock.now()
    made = model.generate(prompts, attention_mask=torch.ones_like(prompts), generation_config=settings)
    seconds = clock.now() - begin
    assert made.shape[1] == prompts.shape[1] + outputs, made.shape
    return seconds


def decode_step(model, token: torch.Tensor, position: torch.Tensor, cache: StaticCache) -> torch.Tensor:
    logits = model(input_ids=token, position_ids=position, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
    return logits[:, -1].argmax(dim=-1, keepdim=True)


@torch.inference_mode()
def by_own_loop(model, step, cache: StaticCache, prompts: torch.Tensor, outputs: int, clock: Clock) -> tuple[float, float]:
    """Seconds in all, and of the decode steps. `cache` keeps its memory from call to call: CUDA graphs have its address."""
    requests, prompt_tokens = prompts.shape
    cache.reset()
    begin = clock.now()
    positions = torch.arange(prompt_tokens + outputs, device=prompts.device).expand(requests, -1)
    token = decode_step(model, prompts, positions[:, :prompt_tokens], cache)
    prefilled = clock.now()
    made = [token]
    for index in range(prompt_tokens, prompt_tokens + outputs - 1):
        torch.compiler.cudagraph_mark_step_begin()
        # A graph's output is written over by the next replay.
        token = step(model, token, positions[:, index : index + 1].contiguous(), cache).clone()
        made.append(token)
    tokens = torch.cat(made, dim=1)
    end = clock.now()
    assert tokens.shape == (requests, outputs), tokens.shape
    return end - begin, end - prefilled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder')
    parser.add_argument('sizes', type=int, nargs=3, metavar=('REQUESTS', 'PROMPT_TOKENS', 'OUTPUT_TOKENS'))
    parser.add_argument('--device', default='cuda')
    arguments = parser.parse_args()
    sizes = requests, prompt_tokens, outputs = tuple(arguments.sizes)
    clock = Clock(arguments.device)
    model = AutoModelForCausalLM.from_pretrained(
        arguments.folder, dtype=torch.bfloat16, attn_implementation='sdpa'
    )
    model = model.to(arguments.device).eval()
    generator = torch.Generator().manual_seed(7)
    highest = min(model.config.vocab_size, 50_000)
    prompts = torch.randint(3, highest, (requests, prompt_tokens), generator=generator).to(arguments.device)

    cache = StaticCache(config=model.config, max_cache_len=prompt_tokens + outputs)
    step = torch.compile(decode_step, mode='reduce-overhead', fullgraph=True)
    by_own_loop(model, step, cache, prompts, min(outputs, 8), clock)
    seconds, decode_seconds = by_own_loop(model, step, cache, prompts, outputs, clock)
    step_ms = 1000 * decode_seconds / (outputs - 1)
    tell(
        'transformers, compiled decode loop', seconds, sizes, step_ms, 'static cache, reduce-overhead, in this run'
    )
    del cache, step
    torch.compiler.reset()

    by_generate(model, prompts, outputs, clock)
    seconds = by_generate(model, prompts, outputs, clock)
    tell(
        'transformers generate',
        seconds,
        sizes,
        1000 * seconds / outputs,
        'static cache, which it compiles itself, second call, in this run; the step has a share of the prefill in it',
    )


if __name__ == '__main__':
    main()
