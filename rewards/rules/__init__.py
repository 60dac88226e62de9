"""The built-in rules by short name. Each is `rule(response, sample, **args)`.

The same table stands in pyproject.toml as entry points of the group `keye_rl.rewards`, which other
packages use to add theirs (a test keeps the two equal). This one is what the registry reads for our
own rules, because entry points of an editable install are stale until it is installed again.
"""

BUILTIN: dict[str, str] = {
    "math": "rewards.rules.math:math",
    "exact": "rewards.rules.text:exact",
    "fuzzy": "rewards.rules.text:fuzzy",
    "choice": "rewards.rules.text:choice",
    "ordering": "rewards.rules.text:ordering",
    "ocr": "rewards.rules.text:ocr",
    "number": "rewards.rules.number:number",
    "chart_value": "rewards.rules.number:chart_value",
    "counting": "rewards.rules.number:counting",
    "box_iou": "rewards.rules.grounding:box_iou",
    "point_in_box": "rewards.rules.grounding:point_in_box",
    "polygon_iou": "rewards.rules.grounding:polygon_iou",
    "temporal_iou": "rewards.rules.grounding:temporal_iou",
    "code": "rewards.rules.code:code",
    "constraints": "rewards.rules.constraints:constraints",
    "judge": "rewards.rules.judge:judge",
    "soft_constraints": "rewards.rules.judge:soft_constraints",
    "keye_rm": "rewards.keye_rm.rules:keye_rm",
    "json_schema": "rewards.rules.structure:json_schema",
    "markdown": "rewards.rules.structure:markdown",
    "html": "rewards.rules.structure:html",
    "format": "rewards.rules.format:format_rule",
    "agentic_format": "rewards.rules.agentic:agentic_format",
    "length": "rewards.rules.shaping:length",
    "repetition": "rewards.rules.shaping:repetition",
    "language": "rewards.rules.shaping:language",
    "consistency": "rewards.rules.shaping:consistency",
    "prescribed_steps": "rewards.rules.steps:prescribed_steps",
}
