"""`python -m rewards list`: every rule with its arguments and documentation."""

from dataclasses import dataclass

from pretrain.run.console import say, warn
from pretrain.run.errors import ConfigError
from rewards.registry import Rule, RuleError, installed, load


@dataclass
class ListConfig:
    """What to show."""

    rule: str | None = None
    """Only this rule (a name, `package.module:function` or `file.py:function`)."""


def run(config: ListConfig) -> int:
    """Prints the rules; one that cannot be loaded is a warning, not the end."""
    names = [config.rule] if config.rule else sorted(installed())
    for name in names:
        try:
            rule = load(name)
        except RuleError as error:
            if config.rule:
                raise ConfigError(str(error)) from None
            warn(str(error))
            continue
        say(signature(rule))
        say("    " + rule.doc.replace("\n", "\n    ") + "\n")
    return 0


def signature(rule: Rule) -> str:
    """`name(argument=default, …)  [verifier]`, as a rewards entry may set it."""
    arguments = ", ".join(
        name if default is ... else f"{name}={default!r}"
        for name, default in rule.arguments().items()
    )
    kinds = ["verifier" if rule.verifier else "shaping"]
    kinds += ["async"] if rule.is_async else []
    kinds += [rule.style] if rule.style != "native" else []
    return f"{rule.name}({arguments})  [{', '.join(kinds)}]"
