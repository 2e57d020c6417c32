"""Steps of a trace: columns of the steps, and of what their Results say about each sample and each score.

Most steps say nothing but token ids and log-probs, and lie in a frame's columns already. The others lie there as whole Results, and are
put back into the order of the steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ._flatbuffers import Array, Message, Table, require

#: Larger numbers are not exact everywhere, and no run has them.
MAX_EXACT = 2**53

_STEP = np.dtype(
    [
        ('digest', '<u8'),
        ('planned_us', '<u4'),
        ('committed_us', '<u4'),
        ('num_samples', '<u4'),
        ('rounds', '<u2'),
        ('reserved', '<u2'),
    ]
)
_STEP_COLUMNS = {
    'step': 'i8',
    'digest': 'u8',
    'planned_us': 'i8',
    'committed_us': 'i8',
    'rounds': 'i4',
    'num_samples': 'i8',
    'num_scores': 'i8',
    'code': 'u2',
}
_SAMPLE_COLUMNS = {'token_id': 'i4', 'logprob': 'f4', 'rank': 'u4', 'code': 'u2'}
_SCORE_COLUMNS = {'logprob': 'f4', 'rank': 'u4'}
_TOP_COLUMNS = {'step': 'i8', 'row': 'i8', 'place': 'i8', 'token_id': 'i4', 'logprob': 'f4'}


class Chunks:
    """Pieces of columns, until they are joined."""

    def __init__(self, kinds: dict[str, str]) -> None:
        self._kinds = kinds
        self._pieces: dict[str, list[Array]] = {name: [] for name in kinds}

    def add(self, **pieces: Array) -> None:
        for name, piece in pieces.items():
            self._pieces[name].append(piece.astype(self._kinds[name], copy=False))

    def joined(self) -> dict[str, Array]:
        return {
            name: np.concatenate(self._pieces[name]) if self._pieces[name] else np.empty(0, kind)
            for name, kind in self._kinds.items()
        }


class WholeResult:
    """A Result, verified: each of its columns has an entry for each sample (or score), or none at all."""

    def __init__(self, data: memoryview) -> None:
        root = Message(data).root()
        root.u64(0)
        self.code = root.u16(1)
        self.message = root.string(2)
        token_ids = root.array(3, '<i4')
        self.num_samples = len(token_ids)
        self.samples = {
            'token_id': token_ids,
            'code': _column(root.array(4, '<u2'), self.num_samples, 0),
            'logprob': _column(root.array(5, '<f4'), self.num_samples, np.nan),
            'rank': _column(root.array(6, '<u4'), self.num_samples, 0),
        }
        self.tops = _tops(root, 7, self.num_samples)
        logprobs = root.array(10, '<f4')
        self.num_scores = len(logprobs)
        self.scores = {'logprob': logprobs, 'rank': _column(root.array(11, '<u4'), self.num_scores, 0)}
        self.score_tops = _tops(root, 12, self.num_scores)


def _column(values: Array, count: int, absent: float) -> Array:
    require(
        len(values) in (0, count), f'a Result has {len(values)} entries in one column and {count} in another'
    )
    return np.full(count, absent, values.dtype) if len(values) == 0 else values


def _tops(result: Table, field: int, count: int) -> dict[str, Array]:
    """The most likely tokens beside each sample: row by row, the likeliest first."""
    ends = _column(result.array(field, '<u4'), count, 0).astype('i8')
    token_ids = result.array(field + 1, '<i4')
    logprobs = result.array(field + 2, '<f4')
    require(len(token_ids) == len(logprobs), 'a Result names most likely tokens without their log-probs')
    counts = np.diff(ends, prepend=0)
    total = int(ends[-1]) if count > 0 else 0
    require(bool((counts >= 0).all()) and total == len(token_ids), 'running ends of a Result do not ascend')
    return {
        'row': np.repeat(np.arange(count), counts),
        'place': places(counts),
        'token_id': token_ids,
        'logprob': logprobs,
    }


def places(counts: Array) -> Array:
    """0, 1, 2, ... for each entry's count: the place of each element among those of its entry."""
    ends = np.cumsum(counts, dtype='i8')
    total = int(ends[-1]) if len(ends) > 0 else 0
    each: Array = np.arange(total) - np.repeat(ends - counts, counts)
    return each


class StepColumns:
    """Gathers the steps of one frame after the other. A frame that raises Malformed has left nothing behind."""

    def __init__(self, *, has_plans: bool) -> None:
        self._has_plans = has_plans
        self._steps = Chunks(_STEP_COLUMNS)
        self._samples = Chunks(_SAMPLE_COLUMNS)
        self._scores = Chunks(_SCORE_COLUMNS)
        self._tops = Chunks(_TOP_COLUMNS)
        self._score_tops = Chunks(_TOP_COLUMNS)
        self._messages: dict[int, str] = {}
        self.plans: list[bytes] = []
        self.num_steps = 0

    def add(self, body: Table) -> None:
        first_step, base_us = body.u64(0), body.u64(1)
        entries = body.array(2, _STEP, 8)
        require(len(entries) > 0, 'steps are missing')
        token_ids, logprobs = body.array(3, '<i4'), body.array(4, '<f4')
        require(len(token_ids) == len(logprobs), 'token ids and log-probs differ in number')
        counts = entries['num_samples'].astype('i8')
        require(int(counts.sum()) == len(token_ids), 'steps and token ids differ in number')
        whole_at = body.array(5, '<u4').astype('i8')
        require(_ascends(whole_at, len(entries) - 1, least=1), 'running ends do not ascend')
        wholes = [WholeResult(part) for part in _parts(body, 6, len(whole_at))]
        plan_ends = body.array(8, '<u4')
        require(len(plan_ends) in (0, len(entries)), 'steps and plans differ in number')
        plans = _parts(body, 8, len(plan_ends))
        require(not counts[whole_at].any(), 'a step with a whole Result has samples beside it')
        require(
            first_step == self.num_steps + 1,
            f'it begins with step {first_step} where step {self.num_steps + 1} follows',
        )
        require(base_us < MAX_EXACT, 'its time is impossible')

        starts = np.cumsum(counts) - counts
        columns = {'token_id': token_ids, 'logprob': logprobs}
        self._add_samples(columns, [int(starts[at]) for at in whole_at], wholes)
        num_scores, codes = np.zeros(len(entries), 'i8'), np.zeros(len(entries), 'u2')
        for at, whole in zip(whole_at.tolist(), wholes, strict=True):
            step = first_step + at
            counts[at], num_scores[at], codes[at] = whole.num_samples, whole.num_scores, whole.code
            if whole.message:
                self._messages[step - 1] = whole.message
            self._scores.add(**whole.scores)
            for chunks, tops in ((self._tops, whole.tops), (self._score_tops, whole.score_tops)):
                if len(tops['row']) > 0:
                    chunks.add(step=np.full(len(tops['row']), step), **tops)
        self._steps.add(
            step=np.arange(first_step, first_step + len(entries)),
            digest=entries['digest'],
            planned_us=entries['planned_us'].astype('i8') + base_us,
            committed_us=entries['committed_us'].astype('i8') + base_us,
            rounds=entries['rounds'],
            num_samples=counts,
            num_scores=num_scores,
            code=codes,
        )
        if self._has_plans:
            self.plans += [bytes(part) for part in plans] or [b''] * len(entries)
        self.num_steps += len(entries)

    def _add_samples(self, simple: dict[str, Array], cuts: list[int], wholes: list[WholeResult]) -> None:
        """The frame's own samples, with those of a whole Result put in at each cut."""
        begin = 0
        for cut, whole in zip([*cuts, len(simple['token_id'])], [*wholes, None], strict=True):
            if cut > begin:
                zeros = np.zeros(cut - begin, 'u4')
                piece = {name: values[begin:cut] for name, values in simple.items()}
                self._samples.add(**piece, rank=zeros, code=zeros)
            if whole is not None and whole.num_samples > 0:
                self._samples.add(**whole.samples)
            begin = cut

    def steps(self) -> dict[str, Array]:
        messages = np.full(self.num_steps, '', object)
        for at, message in self._messages.items():
            messages[at] = message
        return {**self._steps.joined(), 'message': messages}

    def tokens(self, steps: dict[str, Array]) -> dict[str, Array]:
        return {**_where(steps['step'], steps['num_samples']), **self._samples.joined()}

    def scores(self, steps: dict[str, Array]) -> dict[str, Array]:
        return {**_where(steps['step'], steps['num_scores']), **self._scores.joined()}

    def tops(self) -> dict[str, Array]:
        return self._tops.joined()

    def score_tops(self) -> dict[str, Array]:
        return self._score_tops.joined()


def _where(steps: Array, counts: Array) -> dict[str, Array]:
    return {'step': np.repeat(steps, counts), 'row': places(counts)}


def _ascends(values: Array, most: int, *, least: int) -> bool:
    if len(values) == 0:
        return True
    return bool((np.diff(values) >= least).all()) and int(values[-1]) <= most


def _parts(body: Table, field: int, count: int) -> list[memoryview]:
    """Messages one after the other: `field` holds their running ends, the next one their bytes. Each begins at a multiple of 8."""
    ends = body.array(field, '<u4').astype('i8')
    data = body.inner(field + 1)
    require(len(ends) == count, 'running ends differ in number')
    if data is None:
        data = memoryview(b'')
    require(_ascends(ends, len(data), least=0), 'running ends do not ascend')
    begins: list[Any] = [0, *((ends[:-1] + 7) // 8 * 8).tolist()]
    return [data[begin:end] for begin, end in zip(begins, ends.tolist(), strict=False)]
