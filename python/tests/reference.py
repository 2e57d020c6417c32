"""What transformers computes in float32 on the CPU, and the comparison of an engine's output with it."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

TOLERANCE = 1e-4  # of log-probs, and the width within which two candidates count as tied


def load_reference(folder: Path):
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation='eager'
    ).eval()


@torch.no_grad()
def log_probs_of(model, token_ids: list[int]) -> torch.Tensor:
    """[len(token_ids), vocab]: row i is the distribution of the token that follows token i."""
    return torch.log_softmax(model(torch.tensor([token_ids])).logits[0].float(), dim=-1)


@torch.no_grad()
def logits_of(model, token_ids: list[int]) -> torch.Tensor:
    return model(torch.tensor([token_ids])).logits[0].float()


@torch.no_grad()
def generate_greedily(model, prompt: list[int], count: int, end_ids: list[int] | None = None) -> list[int]:
    settings = GenerationConfig(
        do_sample=False, max_new_tokens=count, eos_token_id=end_ids, pad_token_id=0, use_cache=True
    )
    # generate() takes what its argument leaves open from here, the end tokens of the directory among it.
    model.generation_config = settings
    token_ids = torch.tensor([prompt])
    output = model.generate(token_ids, attention_mask=torch.ones_like(token_ids), generation_config=settings)
    return output[0, len(prompt) :].tolist()


@dataclass
class GreedyComparison:
    ties: list[int]  # positions where the reference's two best are within the tolerance
    worst_log_prob_error: float


def compare_greedy(
    model, prompt: list[int], token_ids: list[int], log_probs: list[float]
) -> GreedyComparison:
    """Fails unless each token is the reference's best after the same prefix, and has its log-prob.

    Tokens that are the best at every position are the reference's own greedy tokens, by induction. Where its
    two best are within the tolerance either may stand, and what follows is compared after the one that does.
    """
    assert len(token_ids) == len(log_probs), f'{len(token_ids)} tokens with {len(log_probs)} log-probs'
    reference = log_probs_of(model, prompt + token_ids)[len(prompt) - 1 : -1]
    sampled = reference[torch.arange(len(token_ids)), torch.tensor(token_ids)]
    best = torch.topk(reference, 2)
    for at, token in enumerate(token_ids):
        behind = (best.values[at, 0] - sampled[at]).item()
        assert behind <= TOLERANCE, (
            f'token {at} is {token}, the reference says {best.indices[at, 0]}, which is {behind:.2e} better'
        )
    worst = (sampled - torch.tensor(log_probs)).abs().max().item()
    # NaN compares false, so a test of `worst > TOLERANCE` would let it pass.
    assert worst <= TOLERANCE, f'a log-prob is {worst:.2e} off the reference'
    gaps = (best.values[:, 0] - best.values[:, 1]).tolist()
    return GreedyComparison([at for at, gap in enumerate(gaps) if gap <= TOLERANCE], worst)


def compare_scores(model, token_ids: list[int], log_probs: list) -> float:
    assert len(log_probs) == len(token_ids) and log_probs[0] is None
    reference = log_probs_of(model, token_ids)[:-1]
    expected = reference[torch.arange(len(token_ids) - 1), torch.tensor(token_ids[1:])]
    worst = (expected - torch.tensor(log_probs[1:])).abs().max().item() if len(token_ids) > 1 else 0.0
    assert worst <= TOLERANCE, f'a log-prob is {worst:.2e} off the reference'
    return worst
