"""The built-in rules by short name. Each is `rule(response, sample, **args)`.

They are listed here and not in this project's own entry points, which would be stale in an
editable install until it is installed again; other packages announce theirs under the entry-point
group `keye_rl.rewards`.
"""

BUILTIN: dict[str, str] = {
    "math": "rewards.rules.math:math",
    "exact": "rewards.rules.text:exact",
    "format": "rewards.rules.format:format_rule",
    "box_iou": "rewards.rules.grounding:box_iou",
}
