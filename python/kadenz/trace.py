"""Reads recorded runs: `read('run.kdz')` gives their header, and columns that pandas takes as they are.

    trace = kadenz.trace.read('run.kdz')
    tokens = pandas.DataFrame(trace.tokens)

A trace is checked before it is believed: checksums, then structure, and it may come from anywhere. What can't be read at all raises
TraceError. A trace that was cut (its run was killed, or goes on) or damaged gives everything before that place, and `problem` says
what is there. docs/trace-format.md describes the file, and what the columns mean.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ._flatbuffers import Array, Malformed, Message, Table, require
from ._trace_commands import CommandColumns, payload_of
from ._trace_file import Frame, TraceError, TraceProblem, read_frames, require_version
from ._trace_steps import MAX_EXACT, StepColumns

if TYPE_CHECKING:
    import pandas

__all__ = ['Trace', 'TraceEnd', 'TraceError', 'TraceHeader', 'TraceProblem', 'read']

#: Of equal length, one entry for each thing that the table names.
Columns = dict[str, Array]

_HEADER, _STEPS, _COMMAND, _END = 1, 2, 3, 4
_SHA256_BYTES = 32


@dataclass(frozen=True)
class TraceHeader:
    """What a trace says about its run."""

    kadenz_version: str
    #: Of the core's WebAssembly, as hexadecimal digits: equal hashes give equal plans.
    core_sha256: str
    #: What the core was configured with: schemas/command.fbs, table Configure.
    configure: dict[str, Any]
    #: The model's directory, for people. Empty: none.
    model: str
    model_fingerprint: str
    #: Empty: no host, a simulation.
    host_fingerprint: str
    created_unix_ms: int
    #: Whether `plans` has each step's Instruction.
    has_plans: bool


@dataclass(frozen=True)
class TraceEnd:
    """The last frame of a run that was closed."""

    time_us: int
    num_steps: int
    #: Of all instructions, those never committed too.
    digest: int


@dataclass(frozen=True)
class Trace:
    """A recorded run. `step` joins the tables; `row` counts a step's samples (or scores) from 0, in the order of its plan."""

    path: str
    header: TraceHeader
    #: step, digest, planned_us, committed_us, rounds, num_samples, num_scores, code, message
    steps: Columns
    #: One for each sample: step, row, token_id, logprob, rank, code
    tokens: Columns
    #: The most likely tokens beside a sample, where asked for: step, row, place, token_id, logprob
    tops: Columns
    #: Log-probs of prompt tokens, where asked for: step, row, logprob, rank
    scores: Columns
    score_tops: Columns
    #: after_step, time_us, rounds, id, kind, details
    commands: Columns
    #: What add_requests commands ask for: id, after_step, time_us, command (row of `commands`), n, ..., prompt_token_ids, ...
    requests: Columns
    #: The Instruction of each step (schemas/instruction.fbs, not verified); empty unless the run was recorded with plans.
    plans: list[bytes]
    #: None: the run was not closed, or what is behind `problem` is lost.
    end: TraceEnd | None
    #: None: the trace is whole.
    problem: TraceProblem | None

    def to_pandas(self) -> dict[str, pandas.DataFrame]:
        """All tables as data frames, by name."""
        import pandas

        return {name: pandas.DataFrame(getattr(self, name)) for name in _TABLES}


_TABLES = ('steps', 'tokens', 'tops', 'scores', 'score_tops', 'commands', 'requests')


def read(path: str | os.PathLike[str], *, max_unpacked_bytes: int = 2 * 2**30) -> Trace:
    """Reads a whole trace into memory.

    Raises TraceError when it can't be opened, is no trace of this version, or its header is damaged, and when its frames together take
    more than `max_unpacked_bytes`; the columns take about three times that.
    """
    frames = read_frames(path, max_unpacked_bytes)
    name = os.fspath(path)
    header = _read_header(name, next(frames))
    events = _Events(header)
    problem: TraceProblem | None = None
    for frame in frames:
        problem = frame if isinstance(frame, TraceProblem) else events.take(frame)
        if problem is not None or events.end is not None:
            break
    steps = events.steps.steps()
    return Trace(
        path=name,
        header=header,
        steps=steps,
        tokens=events.steps.tokens(steps),
        tops=events.steps.tops(),
        scores=events.steps.scores(steps),
        score_tops=events.steps.score_tops(),
        commands=events.commands.commands(),
        requests=events.commands.requests(),
        plans=events.steps.plans,
        end=events.end,
        problem=problem,
    )


class _Events:
    """Takes one frame after the other, up to the end."""

    def __init__(self, header: TraceHeader) -> None:
        self.steps = StepColumns(has_plans=header.has_plans)
        self.commands = CommandColumns()
        self.end: TraceEnd | None = None

    def take(self, frame: Frame) -> TraceProblem | None:
        try:
            kind, body = _body_of(frame)
            if kind == _STEPS:
                self.steps.add(body)
            elif kind == _COMMAND:
                self._take_command(body)
            elif kind == _END:
                self._take_end(body)
            elif kind == _HEADER:
                sentence = f'frame {frame.number} at byte {frame.offset} is a second header.'
                return TraceProblem('corrupt', frame.offset, frame.number, sentence)
            else:
                raise Malformed(f'a frame is of kind {kind}, which this version does not know')
        except Malformed as error:
            return frame.damaged(str(error))
        return None

    def _take_command(self, body: Table) -> None:
        after_step, time_us, rounds = body.u64(0), body.u64(1), body.u32(2)
        command = body.inner(3)
        if command is None:
            raise Malformed('a command is missing')
        self._require_after(after_step)
        require(time_us < MAX_EXACT, 'its time is impossible')
        self.commands.add(command, after_step=after_step, time_us=time_us, rounds=rounds)

    def _take_end(self, body: Table) -> None:
        end = TraceEnd(time_us=body.u64(0), num_steps=body.u64(1), digest=body.u64(2))
        self._require_after(end.num_steps)
        self.end = end

    def _require_after(self, step: int) -> None:
        num_steps = self.steps.num_steps
        require(
            step == num_steps, f'it stands after step {num_steps} and says that it stands after step {step}'
        )


def _body_of(frame: Frame) -> tuple[int, Table]:
    root = Message(frame.payload).root()
    return root.u8(0), root.table(1)


def _read_header(path: str, frame: Frame | TraceProblem) -> TraceHeader:
    if isinstance(frame, TraceProblem):
        raise TraceError('trace_corrupt', f'{path}: {frame.sentence}')
    try:
        kind, header = _body_of(frame)
        if kind != _HEADER:
            raise TraceError('trace_corrupt', f'{path}: its first frame is no header.')
        require_version(path, header.u32(0))
        core_sha256 = bytes(header.array(2, 'u1'))
        require(len(core_sha256) == _SHA256_BYTES, 'the hash of the core has not 32 bytes')
        configure = header.inner(3)
        if configure is None:
            raise Malformed('the configuration is missing')
        _, command, _, fields = payload_of(configure)
        require(command == 'configure', 'the configuration is missing')
        return TraceHeader(
            kadenz_version=header.string(1),
            core_sha256=core_sha256.hex(),
            configure=fields,
            model=header.string(4),
            model_fingerprint=header.string(5),
            host_fingerprint=header.string(6),
            created_unix_ms=header.u64(7),
            has_plans=header.u8(8) != 0,
        )
    except Malformed as error:
        raise TraceError('trace_corrupt', f'{path}: {frame.damaged(str(error)).sentence}') from error
