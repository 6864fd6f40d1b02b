"""The examples on Keras, PyTorch, scikit-learn and Opacus: real data, real sums, and the accuracy of both runs."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SIZES = ["dpsgd_opacus", "images_keras", "logistic_tls", "speech_torch"]

DROPOUT = """
import keras
net = keras.Sequential([keras.Input((4,)), keras.layers.Dropout(0.5), keras.layers.Dense(3)])
print({one.path for one in net.variables} - {one.path for one in net.weights}, len(net.get_weights()))
"""


def printed(name: str, *packages: str) -> list[float]:
    """The numbers that the example prints, in order."""
    return [float(number) for number in re.findall(r"\d+\.\d+", output([EXAMPLES / f"{name}.py"], *packages))]


def output(arguments: list[str | Path], *packages: str) -> str:
    """What Python prints with these arguments. Keras runs on JAX."""
    if missing := [package for package in packages if importlib.util.find_spec(package) is None]:
        pytest.skip(f"make test-stacks installs {', '.join(missing)}")
    environment = os.environ | {"KERAS_BACKEND": "jax"}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=240, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", SIZES)
def test_an_example_is_short(name: str) -> None:
    lines = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8").splitlines()
    assert sum(bool(line.strip()) for line in lines) < 100


@pytest.mark.stacks
def test_images_are_learned_under_secure_sums_as_in_the_clear() -> None:
    clear, secure = printed("images_keras", "keras", "jax", "mlxtend")
    assert clear > 88
    assert abs(secure - clear) < 1


@pytest.mark.stacks
def test_the_seed_of_a_keras_dropout_layer_is_a_variable_but_not_a_weight() -> None:
    """An average of seeds is another seed, so an update holds weights only."""
    assert "seed_generator_state'} 2" in output(["-c", DROPOUT], "keras", "jax")


@pytest.mark.stacks
def test_speech_is_learned_under_secure_sums_as_in_the_clear() -> None:
    clear, secure = printed("speech_torch", "torch", "sktime")
    assert clear > 86
    assert abs(secure - clear) < 1.5  # an utterance is 0.27 points


@pytest.mark.stacks
def test_hospitals_learn_over_tls_within_their_budget() -> None:
    clear, noised, epsilon = printed("logistic_tls", "sklearn")[:3]
    assert clear > 93
    assert noised > 85  # noise moves it by some points from run to run
    assert 7.9 < epsilon <= 8


@pytest.mark.stacks
def test_torch_learns_over_plain_http_in_less_than_sixty_lines() -> None:
    lines = (EXAMPLES / "torch_http.py").read_text(encoding="utf-8").splitlines()
    assert sum(bool(line.strip()) for line in lines) < 60
    (accuracy,) = printed("torch_http", "torch", "sklearn")
    assert accuracy > 80


@pytest.mark.stacks
def test_opacus_is_paid_for_by_a_ledger_of_records() -> None:
    clear, private, *epsilons = printed("dpsgd_opacus", "opacus", "torch", "sklearn")
    assert clear > 90
    assert private > 75  # noise moves it by some points from run to run
    assert len(epsilons) == 6
    for ours, theirs in zip(epsilons[::2], epsilons[1::2], strict=True):
        assert 0.97 * theirs < ours < 8
        assert ours < 1.03 * theirs  # Opacus asks other orders of the same divergence
