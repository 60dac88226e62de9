"""The command line: what it composes, and what it says to bad input."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

import pretrain.run.command as command
from pretrain.run.command import Command, compose, config_hash, main
from pretrain.run.errors import ConfigError, KeyeError


@dataclass
class Learner:
    lr: float = 1.0
    """Learning rate of AdamW."""
    ranks: int = 1
    """Number of learner processes."""


@dataclass
class Model:
    width: int = 1


@dataclass
class Config:
    run: str = "try"
    learner: Learner = field(default_factory=Learner)
    model: Model = field(default_factory=Model)
    mix: dict[str, float] = field(default_factory=dict)
    experts: dict[str, Learner] = field(default_factory=lambda: {"ocr": Learner()})
    image: list[str] = field(default_factory=list)
    prompt: str = ""
    engines: int = field(default=1, metadata={"identity": False})

    def __post_init__(self) -> None:
        if self.engines < 1:
            raise ValueError(f"engines={self.engines}: at least 1 is needed")


@pytest.fixture(autouse=True)
def conf(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "tiny.yaml").write_text("width: 128\n")
    (tmp_path / "model" / "big.yaml").write_text("width: 4096\n")
    (tmp_path / "rl.yaml").write_text(
        "defaults:\n  - model: tiny\n  - _self_\nlearner:\n  lr: 3e-5\nmix:\n  sum: 1\n"
    )
    monkeypatch.setattr(command, "CONF", tmp_path)
    return tmp_path


def test_schema_then_file_then_overrides():
    config = compose("rl", Config, ["learner.ranks=2", "model=big", "mix.max=0.5"])
    assert config == Config(
        learner=Learner(lr=3e-5, ranks=2), model=Model(4096), mix={"sum": 1.0, "max": 0.5}
    )


def test_a_mapping_given_whole_adds_to_what_is_there():
    assert compose("rl", Config, ["mix={max: 0.5, sum: 0}"]).mix == {"sum": 0.0, "max": 0.5}
    assert compose("rl", Config, ["mix={text/ocr: 1}"]).mix == {"sum": 1.0, "text/ocr": 1.0}
    experts = compose("rl", Config, ["experts={table: {ranks: 2}}"]).experts
    assert experts == {"ocr": Learner(), "table": Learner(ranks=2)}


@pytest.mark.parametrize("override", ["learner={rate: 1}", "experts={ocr: {rate: 1}}"])
def test_a_section_given_whole_is_checked(override):
    with pytest.raises(ConfigError, match="rate"):
        compose("rl", Config, [override])


def test_keys_of_dataclasses_kept_by_name_are_checked():
    config = compose("rl", Config, ["experts.ocr.ranks=3"])
    assert config.experts == {"ocr": Learner(ranks=3)}
    with pytest.raises(ConfigError, match=r"'experts\.ocr\.rank=3'.*Did you mean ranks"):
        compose("rl", Config, ["experts.ocr.rank=3"])


def test_text_is_taken_literally():
    text = "what is {a} + [b], c=d? 'quoted\" ${x} #"
    config = compose("rl", Config, [f"prompt={text}", "image=a,b.png", "image=c.png"])
    assert (config.prompt, config.image) == (text, ["a,b.png", "c.png"])


def test_one_image_becomes_a_list():
    assert compose("rl", Config, ["image=a.png"]).image == ["a.png"]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("learner.lrr=1", ["learner.lrr=1", "Did you mean learner.lr"]),
        ("lr=1", ["'lr=1'", "Did you mean learner.lr"]),
        ("+extra=1", ["'+extra=1'", "unknown"]),
        ("learner.lr=fast", ["learner.lr=fast", "Float"]),
        ("learner.ranks=1.5", ["learner.ranks=1.5", "Integer"]),
        ("model=huge", ["model=huge", "big, tiny"]),
        ("engines=0", ["engines=0", "at least 1"]),
        ("run=[", ["cannot be composed"]),
    ],
)
def test_bad_override_is_named(override, said):
    with pytest.raises(ConfigError) as caught:
        compose("rl", Config, [override])
    assert all(part in str(caught.value) for part in said), str(caught.value)


def test_bad_key_in_a_file_is_named(conf):
    (conf / "rl.yaml").write_text("learner:\n  rate: 3e-5\n")
    with pytest.raises(ConfigError, match=r"'learner.rate' in the configuration"):
        compose("rl", Config, [])


def test_hash_counts_content_only():
    assert config_hash(Config()) == config_hash(Config(engines=2))
    assert config_hash(Config()) != config_hash(Config(learner=Learner(ranks=2)))
    assert len(config_hash(Config())) == 16


def run_main(argv, run=lambda config: None):
    commands = {
        "train": Command("rl", Config, run, "Train a policy."),
        "evaluate": Command("rl", Config, run, "Measure a policy."),
    }
    return main("rl", commands, "train", argv)


def test_first_word_chooses_the_command(capsys):
    seen = []
    assert run_main(["evaluate", "learner.ranks=3"], lambda c: seen.append(c.learner.ranks)) == 0
    assert run_main([], lambda c: seen.append(c.run)) == 0
    assert seen == [3, "try"]
    assert run_main([], lambda c: 7) == 7


def test_unknown_command_names_the_nearest(capsys):
    assert run_main(["evalute"]) == 2
    assert "Did you mean evaluate?" in capsys.readouterr().err


def test_keye_error_has_no_traceback(capsys):
    def run(config):
        raise KeyeError("row 3 of data.jsonl has no answer; add one.")

    assert run_main([], run) == 2
    error = capsys.readouterr().err
    assert "row 3 of data.jsonl has no answer; add one." in error
    assert "Traceback" not in error


def test_defect_keeps_its_traceback_and_ends_with_a_sentence(capsys):
    assert run_main([], lambda config: 1 / 0) == 1
    error = capsys.readouterr().err
    assert "ZeroDivisionError" in error
    assert error.strip().endswith("the same command goes on from there.")


def test_full_disk_is_no_defect(capsys):
    def run(config):
        raise OSError(28, "No space left on device", "runs/x")

    assert run_main([], run) == 2
    assert "the disk is full" in capsys.readouterr().err


def test_help_lists_commands_and_documented_keys(capsys):
    assert run_main(["--help"]) == 0
    text = capsys.readouterr().out
    assert "train" in text and "(default)" in text and "Measure a policy." in text
    assert run_main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    assert "learner.lr=3e-05\n      Learning rate of AdamW." in text
    assert "conf/model: big, tiny" in text
