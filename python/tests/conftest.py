"""Seeds and models shared by the tests. KADENZ_PARITY_SEED="3,4" draws other shapes."""

import os
from pathlib import Path
from types import SimpleNamespace

import kadenz_cli
import pytest
import torch
from kadenz_tools.convert_smollm2 import convert
from random_models import ARCHITECTURES, make_model
from reference import load_reference
from transformers.utils import logging

DEFAULT_SEEDS = '1,2'
SEEDS = [int(seed) for seed in os.environ.get('KADENZ_PARITY_SEED', DEFAULT_SEEDS).split(',')]

# One thread: PyTorch's threads spin while they wait for each other, which is slow beside other work.
torch.set_num_threads(1)
logging.disable_progress_bar()


def pytest_report_header() -> list[str]:
    command = os.environ.get('KADENZ_CLI', 'node dist/cli/main.js')
    return [f'parity seeds: {",".join(map(str, SEEDS))} (KADENZ_PARITY_SEED)', f'command line: {command}']


def pytest_generate_tests(metafunc) -> None:
    """A test that asks for `random_model` runs once for each architecture and seed."""
    if 'random_model' in metafunc.fixturenames:
        cases = [(architecture, seed) for architecture in ARCHITECTURES for seed in SEEDS]
        names = [f'{architecture.name}-seed{seed}' for architecture, seed in cases]
        metafunc.parametrize('random_model', cases, ids=names, indirect=True, scope='module')


def open_model(architecture, seed: int, folder: Path) -> SimpleNamespace:
    description = make_model(architecture, seed, folder)
    print(description)
    return SimpleNamespace(
        folder=folder,
        seed=seed,
        architecture=architecture.name,
        description=description,
        reference=load_reference(folder),
    )


@pytest.fixture(scope='module')
def random_model(request, tmp_path_factory) -> SimpleNamespace:
    architecture, seed = request.param
    return open_model(architecture, seed, tmp_path_factory.mktemp(f'{architecture.name}-{seed}'))


@pytest.fixture(scope='session')
def small_model(tmp_path_factory) -> SimpleNamespace:
    """One Qwen3 for what does not depend on the architecture."""
    return open_model(ARCHITECTURES[-1], SEEDS[0], tmp_path_factory.mktemp('small'))


@pytest.fixture(scope='session')
def smollm2_folder() -> Path:
    """Kept between runs: the conversion leaves a finished directory alone."""
    folder = kadenz_cli.REPOSITORY / '.cache' / 'smollm2'
    convert(folder)
    return folder


@pytest.fixture(scope='session')
def smollm2(smollm2_folder) -> SimpleNamespace:
    return SimpleNamespace(folder=smollm2_folder, reference=load_reference(smollm2_folder))


@pytest.fixture(scope='session')
def arithmetic_folder() -> Path:
    return kadenz_cli.REPOSITORY / 'models' / 'arithmetic'


@pytest.fixture(scope='session')
def arithmetic(arithmetic_folder) -> SimpleNamespace:
    return SimpleNamespace(folder=arithmetic_folder, reference=load_reference(arithmetic_folder))
