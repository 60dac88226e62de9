"""Sources that leave the query as it is: preferences, and the dual track of mixed modes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pretrain.data.sample import Sample
from rl.alignment.config import AlignmentConfig
from rl.alignment.prompts import Entry, format_entry


def with_preference(sample: Sample, rng: np.random.Generator, cfg: AlignmentConfig) -> Sample:
    """The reward model's preference, and no reference answer."""
    own = cfg.preference
    judged: Entry = {
        "rule": "keye_rm",
        "weight": own.preference_weight,
        "against": own.against,
        "mode": own.mode,
    }
    rewards = [judged, *format_entry(own.format_weight, own.format_gate)]
    return replace(sample, rewards=rewards)


def with_both_tracks(sample: Sample, rng: np.random.Generator, cfg: AlignmentConfig) -> Sample:
    """Beside the sample's own rewards for the result, one for reasoning that agrees with it.

    In auto-think mode length costs something: reasoning must pay for itself.
    """
    own = cfg.dual_track
    gate = {"gate": 1.0} if own.consistency_gate else {}
    kept = [entry for entry in sample.rewards if entry["rule"] not in ("format", "consistency")]
    rewards = [
        *kept,
        {"rule": "consistency", "weight": own.consistency_weight, **gate},
        *format_entry(own.format_weight, own.format_gate),
    ]
    if own.length_weight and sample.mode == "auto_think":
        rewards.append(
            {
                "rule": "length",
                "weight": own.length_weight,
                "maximum": own.longest,
                "soft": own.longest,
            }
        )
    return replace(sample, rewards=rewards)
