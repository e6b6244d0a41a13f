import pathlib

import pytest
from absl import flags
from ml_collections import config_flags

from experiments import rules

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.py") if path.stem != "common")


def parsed(*arguments):
    """Returns the config that command line arguments lead to."""
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file("config", flag_values=values)
    values(["program", *arguments])
    return config.value


@pytest.mark.parametrize("name", NAMES)
def test_config_loads_and_its_docstring_gives_the_command(name):
    config = parsed(f"--config={CONFIGS / name}.py")
    assert rules.listed(config.rules)
    assert (
        f"python -m experiments.main --config=configs/{name}.py"
        in (CONFIGS / f"{name}.py").read_text()
    )


def test_fields_can_be_overridden():
    config = parsed(
        f"--config={CONFIGS}/digits_mlp.py",
        "--config.network.hidden=(8, 4)",
        "--config.training.epochs=2",
        "--config.rules.threshold=(0.5,)",
        "--config.rules.size=()",
        "--config.rules.compress=()",
    )
    assert config.network.hidden == (8, 4)
    assert config.training.epochs == 2
    assert rules.listed(config.rules) == [("threshold", 0.5)]


def test_variants():
    published = parsed(f"--config={CONFIGS}/fashion_mlp.py")
    assert (published.training.optimiser, published.training.learning_rate) == ("sgd", 0.005)
    assert (published.training.batch, published.training.epochs) == (32, 20)
    adam = parsed(f"--config={CONFIGS}/fashion_mlp.py:adam")
    assert (adam.training.optimiser, adam.training.batch) == ("adam", 256)
    assert parsed(f"--config={CONFIGS}/tabular.py:wilt").dataset.name == "wilt"


def test_unknown_rule_is_refused():
    config = parsed(f"--config={CONFIGS}/digits_mlp.py")
    config.rules.sise = (0.1,)
    with pytest.raises(ValueError, match="'sise'"):
        rules.listed(config.rules)
