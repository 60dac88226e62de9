"""When a stage of a recipe is done again: for what decides its outcome, and for nothing else."""

from pathlib import Path
from types import SimpleNamespace

from pretrain.run.directory import RunDir
from rl.config import RlConfig
from rl.endpoint_config import EndpointConfig
from rl.stages import Run


def test_how_a_model_is_reached_does_not_make_a_stage_run_again(tmp_path: Path):
    run = Run(RlConfig(), RunDir(tmp_path), SimpleNamespace(), tmp_path / "policy")
    asked = []

    def stage(endpoint: EndpointConfig) -> None:
        run.stage("judged", [endpoint, 3], lambda folder: {"asked": asked.append(endpoint)})

    stage(EndpointConfig(url="http://127.0.0.1:8000/v1", model="a"))
    stage(EndpointConfig(url="http://127.0.0.1:9000/v1", model="a", retries=9))
    assert len(asked) == 1
    stage(EndpointConfig(url="http://127.0.0.1:9000/v1", model="b"))
    assert len(asked) == 2
