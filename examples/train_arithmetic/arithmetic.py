"""The task of the embedded model: integer arithmetic, asked in a chat and answered on one line.

A problem is `left operator right` with three digits at most on each side. Sums and differences are answered
directly, products with their partial products written out first, so that an answer is at most 24 tokens long:

    What is 347+258?   ->  347+258=605
    What is 47x36?     ->  47x36=1410+282=1692

The reward has one rule: the last integer of the text before the end token equals the answer.
"""

import random
import re
from dataclasses import dataclass

# Every prompt opens with this message, so that the prompts of one batch share a long prefix.
SYSTEM_MESSAGE = (
    'You are a careful calculator. Work out the value and end your line with it. '
    'Examples: 12+30=42. 75-8=67. 14x6=60+24=84. 21x13=210+63=273.'
)


@dataclass(frozen=True)
class Problem:
    left: int
    operator: str  # '+', '-' or 'x'
    right: int

    @property
    def answer(self) -> int:
        if self.operator == '+':
            return self.left + self.right
        if self.operator == '-':
            return self.left - self.right
        return self.left * self.right

    @property
    def question(self) -> str:
        return f'What is {self.left}{self.operator}{self.right}?'

    @property
    def worked_answer(self) -> str:
        asked = f'{self.left}{self.operator}{self.right}'
        if self.operator != 'x':
            return f'{asked}={self.answer}'
        # One-digit right sides split the left side by its digits, two-digit ones split the right side.
        split, factor = (self.left, self.right) if self.right < 10 else (self.right, self.left)
        tens, ones = split // 10 * 10, split % 10
        return f'{asked}={tens * factor}+{ones * factor}={self.answer}'

    @property
    def key(self) -> tuple:
        """The same for a+b and b+a, so that a held-out problem is held out in both orders."""
        if self.operator == '-':
            return (self.operator, self.left, self.right)
        return (self.operator, min(self.left, self.right), max(self.left, self.right))


def draw_problem(
    random_source: random.Random, operator: str | None = None, fewest_digits: int = 1
) -> Problem:
    """Operands by their number of digits, so that short and long ones are equally frequent."""
    operator = operator or random_source.choice('+-x')

    def draw_operand(digits: int) -> int:
        return random_source.randint(10 ** (digits - 1), 10**digits - 1)

    if operator == 'x':
        return Problem(draw_operand(2), 'x', draw_operand(random_source.randint(1, 2)))
    left, right = (draw_operand(random_source.randint(fewest_digits, 3)) for _ in range(2))
    if operator == '-' and left < right:
        left, right = right, left
    return Problem(left, operator, right)


def draw_distinct_problems(count: int, seed: int, without: set = frozenset()) -> list[Problem]:
    """`count` problems with distinct keys outside of `without`, the operators taking turns."""
    random_source = random.Random(seed)
    problems, keys = [], set(without)
    while len(problems) < count:
        problem = draw_problem(random_source, '+-x'[len(problems) % 3], fewest_digits=2)
        if problem.key not in keys:
            keys.add(problem.key)
            problems.append(problem)
    return problems


def reward(text: str, answer: int) -> float:
    """1 if the last integer of the text equals the answer, else 0."""
    integers = re.findall(r'\d+', text)
    return float(bool(integers) and int(integers[-1]) == answer)
