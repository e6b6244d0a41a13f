import ast
import pathlib
import re
import shlex
import sys

import pytest
from absl import flags
from ml_collections import config_flags

from experiments import axes, methods, networks

ROOT = pathlib.Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
OTHERS = ("common", "real_networks")  # of no program
assert networks.MODULES  # some of them have methods of their own
NAMES = sorted(path.stem for path in CONFIGS.glob("*.py") if path.stem not in OTHERS)


@pytest.fixture
def parsed(monkeypatch):
    """A function from command line arguments to the config they lead to."""

    def parse(*arguments):
        # The overrides are found in sys.argv before the flags are parsed.
        monkeypatch.setattr(sys, "argv", ["program", *arguments])
        values = flags.FlagValues()
        config = config_flags.DEFINE_config_file("config", flag_values=values)
        values(sys.argv)
        return config.value

    return parse


@pytest.mark.parametrize("name", NAMES)
def test_config_loads_and_its_docstring_gives_the_command(parsed, name):
    config = parsed(f"--config={CONFIGS / name}.py")
    assert "rules" not in config or methods.listed(config.rules)
    docstring = ast.get_docstring(ast.parse((CONFIGS / f"{name}.py").read_text()))
    assert re.search(rf"python -m experiments\.\w+ --config=configs/{name}\.py", docstring)


def commands():
    """Where the README, the documentation and configs say how to run an experiment, and how."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *CONFIGS.glob("*.py")]
    for page in pages:
        text = re.sub(r"\\\s*\n\s*", "", page.read_text())
        told = re.findall(r"^\s*(python -m experiments\.main --.*)$", text, re.MULTILINE)
        told += re.findall(r"(?<=`)(python -m experiments\.main --[^`…]*)(?=`)", text)
        yield from ((f"{page.stem}: {line}", shlex.split(line, comments=True)) for line in told)


COMMANDS = list(commands())


@pytest.mark.parametrize("words", [pytest.param(words, id=name) for name, words in COMMANDS])
def test_commands_that_are_told_would_run(parsed, monkeypatch, words):
    monkeypatch.chdir(ROOT)
    assert any(word.startswith("--workdir=") for word in words), "the command needs a folder"
    config = parsed(*(word for word in words if word.startswith("--config")))
    axes.read(config, [word[len("--sweep=") :] for word in words if word.startswith("--sweep=")])
    known = ("--config", "--workdir", "--data_dir", "--sweep", "--processes", "--retry")
    assert all(word.startswith(known) for word in words[3:])


def test_commands_are_found():
    assert len(COMMANDS) > 25
    assert {name.partition(":")[0] for name, _ in COMMANDS} >= {"README", "sweep", "real_networks"}


def test_fields_can_be_overridden(parsed):
    config = parsed(
        f"--config={CONFIGS}/digits_mlp.py",
        "--config.network.hidden=(8, 4)",
        "--config.training.epochs=2",
        "--config.rules.threshold=(0.5,)",
        "--config.rules.size=()",
    )
    assert config.network.hidden == (8, 4)
    assert config.training.epochs == 2
    listed = methods.listed(config.rules)
    assert listed[0] == ("threshold", 0.5)
    assert "size" not in dict(listed)


def test_variants(parsed):
    published = parsed(f"--config={CONFIGS}/fashion_mlp.py")
    assert (published.training.optimiser, published.training.learning_rate) == ("sgd", 0.005)
    assert (published.training.batch, published.training.epochs) == (32, 20)
    adam = parsed(f"--config={CONFIGS}/fashion_mlp.py:adam")
    assert (adam.training.optimiser, adam.training.batch) == ("adam", 256)
    assert parsed(f"--config={CONFIGS}/tabular.py:wilt").dataset.name == "wilt"


def test_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="'sise'"):
        methods.listed({"sise": (0.1,)})
