"""Log-probs of given tokens by transformers, in float32 (TF32 off) and in bfloat16: what test/gpu/accuracy.test.ts compares with.

    python3 bench/gpu/reference_logprobs.py JOBS.json [--device cuda]
    python3 bench/gpu/reference_logprobs.py --make-tiny DIR [--seed N]

JOBS.json: [{"model": DIR, "sequences": FILE, "output": PREFIX}]. FILE is a JSON list of lists of token ids. For each job it
writes PREFIX.float32 and PREFIX.bfloat16: raw float32 log-probs of every token but each sequence's first, one sequence after
the other. The weights are rounded to bfloat16 for both, so that what differs is the arithmetic. --make-tiny writes a small random
model of each architecture into DIR and prints {"name", "words"} lines.
"""

import argparse
import json
import pathlib
import sys

import numpy as np
import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging

TOGETHER = 8  # sequences in one call: their logits over a large vocabulary are a gigabyte
REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


def load(folder: str, dtype: torch.dtype, device: str):
    # Eager attention in float32: plain matmuls, which do as allow_tf32 says.
    attention = 'eager' if dtype == torch.float32 else 'sdpa'
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, attn_implementation=attention)
    return model.to(device=device, dtype=dtype).eval()


@torch.inference_mode()
def log_probs(model, sequences: list[list[int]]) -> np.ndarray:
    """One after the other, all but the first token of each. What pads a sequence stands behind it, where nothing looks."""
    longest = max(map(len, sequences))
    tokens = torch.tensor([sequence + [0] * (longest - len(sequence)) for sequence in sequences]).to(model.device)
    logits = model(tokens, use_cache=False).logits[:, :-1]
    distribution = torch.log_softmax(logits.float(), dim=-1)
    chosen = distribution.gather(2, tokens[:, 1:, None])[:, :, 0].cpu().numpy()
    return np.concatenate([row[: len(sequence) - 1] for row, sequence in zip(chosen, sequences)])


def run_job(job: dict, device: str) -> None:
    sequences = json.loads(pathlib.Path(job['sequences']).read_text())
    for name in ('float32', 'bfloat16'):
        model = load(job['model'], getattr(torch, name), device)
        values = np.concatenate(
            [log_probs(model, sequences[at : at + TOGETHER]) for at in range(0, len(sequences), TOGETHER)]
        )
        assert values.dtype == np.float32 and np.isfinite(values).all(), f'{job["model"]} in {name}'
        values.tofile(f'{job["output"]}.{name}')
        del model


def make_tiny(folder: pathlib.Path, seed: int) -> None:
    sys.path.insert(0, str(REPOSITORY / 'python' / 'tests'))
    from random_models import ARCHITECTURES, make_model

    for architecture in ARCHITECTURES:
        words = make_model(architecture, seed, folder / architecture.name)
        print(json.dumps({'name': architecture.name, 'words': words}), flush=True)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('jobs', type=pathlib.Path, nargs='?')
    parser.add_argument('--device', default='cuda')
    parser.add_argument('--make-tiny', type=pathlib.Path)
    parser.add_argument('--seed', type=int, default=0)
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    if arguments.make_tiny is not None:
        make_tiny(arguments.make_tiny, arguments.seed)
    if arguments.jobs is not None:
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        for each in json.loads(arguments.jobs.read_text()):
            run_job(each, arguments.device)
