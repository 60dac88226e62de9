"""Mixed preference optimisation: preference, quality and generation losses on pairs of responses.

Each round samples the newest policy, makes pairs (`rl.mpo.pairs`) and trains on them with TRL.
Stages: `mpo/roundK/pairs`, `mpo/roundK/human` where people have ranked responses, and
`mpo/roundK/train`; complete ones are skipped, interrupted ones go on.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from pretrain.run.console import table
from pretrain.run.directory import StageDir
from pretrain.run.errors import ConfigError
from pretrain.run.metrics import MetricLogger, WandbConfig
from pretrain.training.ranks import RankGroup
from rl.identity import data_identity, generation_identity, reward_identity
from rl.iterated.stages import indexed_prompts
from rl.mpo.config import MpoTrainConfig
from rl.mpo.pairs import PAIRS, PairExamples, make_pairs
from rl.mpo.rank import MpoJob, MpoRank
from rl.mpo.rankings import add_rankings, read_rankings
from rl.row_log import digests
from rl.sft.training import last_means, run_steps
from rl.stages import Run
from rl.tool_tasks import needs_tools
from rollout.seeds import stable_seed

LOGGED = {
    "loss": "mpo/loss",
    "rewards/chosen": "mpo/chosen_reward",
    "rewards/rejected": "mpo/rejected_reward",
    "rewards/margins": "mpo/margin",
    "rewards/accuracies": "mpo/accuracy",
    "logps/chosen": "mpo/chosen_logprob",
    "logps/rejected": "mpo/rejected_logprob",
    "mean_token_accuracy": "mpo/token_accuracy",
    "entropy": "mpo/entropy",
    "grad_norm": "mpo/grad_norm",
    "learning_rate": "mpo/lr",
}
"""TRL's names → ours. Rewards are DPO's implicit ones, β·(log π − log π_ref); log-probs are sums
over a response."""


def mpo(run: Run) -> None:
    """All rounds, from the newest policy on."""
    cfg = run.cfg.mpo
    if not run.cfg.data.files and needs_tools(run.cfg.data.tasks):
        raise ConfigError(
            f"data.tasks={dict(run.cfg.data.tasks)} can't be solved without tools, and MPO learns "
            "from responses of one turn: give it other tasks, or leave the stage out"
        )
    for number in range(1, cfg.rounds + 1):
        name = f"mpo/round{number}/pairs"
        statistics = run.stage(name, _pair_identity(run), lambda stage: _pairs(run, stage))
        if cfg.rankings:
            name, statistics = _human(run, number, name)
        table(name, ["", ""], [[key, _short(value)] for key, value in statistics.items()])
        source = run.policy()

        def train(
            stage: StageDir, pairs: str = name, source: Path = source, seed: int = number
        ) -> dict[str, Any]:
            prompts, _ = _prompts(run, stage.path)
            file = run.folder.stage(pairs).path / PAIRS
            examples = PairExamples(prompts, file, stable_seed(cfg.pairs.seed, seed))
            return run_mpo(source, examples, cfg.train, stage, wandb=run.cfg.wandb)

        trained = f"mpo/round{number}/train"
        pairs_hash = run.folder.stage(name).summary()["hash"]
        run.stage(trained, [cfg.train, {"pairs": pairs_hash}], train)
        run.advance(trained)


def _human(run: Run, number: int, pairs: str) -> tuple[str, dict[str, Any]]:
    """The round's pairs with people's rankings; the stage's name and statistics."""
    cfg, name = run.cfg.mpo, f"mpo/round{number}/human"
    upstream = run.folder.stage(pairs)

    def body(stage: StageDir) -> dict[str, Any]:
        rankings = read_rankings(cfg.rankings)
        return add_rankings(
            upstream.path, rankings, stage.path, cfg.pairs.per_prompt, cfg.rounds == 1
        )

    identity = [digests(cfg.rankings), {"pairs": upstream.summary()["hash"]}]
    return name, run.stage(name, identity, body)


def _pair_identity(run: Run) -> list[Any]:
    how = [run.cfg.mpo.pairs, *data_identity(run.cfg.data)]
    return [*how, *generation_identity(run.cfg, tools=False), *reward_identity(run.cfg)]


def _pairs(run: Run, stage: StageDir) -> dict[str, Any]:
    cfg = run.cfg.mpo.pairs
    prompts, count = _prompts(run, stage.path)
    rollouts = run.session.rollouts(run.policy(), tools=False)
    return make_pairs(prompts, count, rollouts, cfg, stage.path, stable_seed(cfg.seed, stage.name))


def _prompts(run: Run, folder: Path) -> tuple[Any, int]:
    return indexed_prompts(run, folder, run.cfg.mpo.pairs.prompts, "mpo.pairs.prompts")


def run_mpo(
    checkpoint: Path,
    examples: PairExamples,
    cfg: MpoTrainConfig,
    stage: StageDir,
    *,
    wandb: WandbConfig | None = None,
    ranks: Any = None,
) -> dict[str, Any]:
    """Trains `checkpoint` on pairs and writes `stage.checkpoint`; resumes from `stage.state`.

    Args:
        checkpoint: where to start, and the reference model.
        examples: the pairs, by index in 0…steps × batch_size − 1.
        cfg: see `MpoTrainConfig`.
        stage: the stage's folder.
        wandb: where metrics go besides metrics.jsonl; by default nowhere.
        ranks: running ranks to use; by default own ones, which end here.

    Returns:
        `steps`, and means of the last ten steps of `LOGGED`.

    Raises:
        KeyeError: a bad example, a loss that isn't finite, or a lost rank (named).
    """
    job = MpoJob(Path(checkpoint), stage.state, examples, cfg)
    group = ranks or RankGroup(
        MpoRank,
        cfg.world_size,
        name=stage.name,
        threads=cfg.threads,
        cpus_per_rank=cfg.cpus_per_rank,
        gpus_per_rank=cfg.gpus_per_rank,
    )
    try:
        done = group.call("open", job, phase=f"{stage.name}: load", timeout_s=cfg.timeout_s)[0]
        with MetricLogger(stage, wandb or WandbConfig(mode="disabled"), asdict(cfg)) as logger:
            logger.truncate(done)
            run_steps(group, cfg, stage.name, logger, done, LOGGED)
        phase = f"{stage.name}: export"
        group.call("export", stage.checkpoint, phase=phase, timeout_s=cfg.timeout_s)
    finally:
        if ranks is None:
            group.close()
    return {"steps": cfg.steps, **last_means(stage, LOGGED.values())}


def _short(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
