"""Calls a loaded rule in its own form (ours, TRL's, verl's) and checks what it returns.

Runs inside a worker. Every call returns one RewardResult a response, whatever the rule does short
of hanging or killing its process.
"""

from __future__ import annotations

import inspect
import json
import time
from typing import Any

from rewards.registry import Rule
from rewards.result import RewardResult, as_result

LONGEST_DETAILS = 20_000  # characters of JSON; longer details are cut, a log is no archive


class Callee:
    """A rule ready to be called. Instances of rules that are classes are kept per arguments."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self._instances: dict[str, Any] = {}
        self._messages = False  # a TRL function that turned out to want chat messages

    def __call__(
        self, responses: list[str], sample: dict[str, Any], args: dict[str, Any]
    ) -> list[RewardResult]:
        """Results of a synchronous rule, one a response."""
        started = time.perf_counter()
        try:
            returned = self._returned(responses, sample, args)
            results = self._results(returned, len(responses))
        except BaseException as error:  # SystemExit and KeyboardInterrupt of a plug-in too
            results = [RewardResult.failure(_describe(error)) for _ in responses]
        return _timed(results, time.perf_counter() - started)

    async def call_async(
        self, responses: list[str], sample: dict[str, Any], args: dict[str, Any]
    ) -> list[RewardResult]:
        """Results of an asynchronous rule, one a response."""
        started = time.perf_counter()
        try:
            returned = await self._returned(responses, sample, args)
            results = self._results(returned, len(responses))
        except Exception as error:
            results = [RewardResult.failure(_describe(error)) for _ in responses]
        return _timed(results, time.perf_counter() - started)

    def _returned(self, responses: list[str], sample: dict[str, Any], args: dict[str, Any]) -> Any:
        call, extra = self.rule.call, args
        if self.rule.is_class:
            key = json.dumps(args, sort_keys=True, default=str)
            if key not in self._instances:
                self._instances[key] = self.rule.call(**args)
            call, extra = self._instances[key], {}
        if self.rule.style == "native":
            return call(responses[0], sample, **extra)
        if self.rule.style == "native_batch":
            return call(responses, [sample] * len(responses), **extra)
        if self.rule.style == "verl":
            return self._call_verl(call, responses[0], sample, extra)
        return self._call_trl(call, responses, sample, extra)

    def _call_verl(self, call: Any, response: str, sample: dict[str, Any], extra: dict) -> Any:
        named = {
            "data_source": sample.get("task_type"),
            "solution_str": response,
            "ground_truth": sample.get("answer"),
            "extra_info": sample,
        }
        taken = inspect.signature(call).parameters
        accepts_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in taken.values())
        return call(**{k: v for k, v in named.items() if accepts_any or k in taken}, **extra)

    def _call_trl(self, call: Any, responses: list[str], sample: dict, extra: dict) -> Any:
        """TRL passes every data column as a list; `completions` are texts or chat messages."""
        columns = {k: [v] * len(responses) for k, v in sample.items() if k != "messages"}
        taken = inspect.signature(call).parameters
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in taken.values()):
            columns = {k: v for k, v in columns.items() if k in taken}

        def call_with(as_messages: bool) -> Any:
            messages = sample.get("messages") or []
            prompt = messages if as_messages else prompt_text(messages)
            completions: list[Any] = list(responses)
            if as_messages:
                completions = [[{"role": "assistant", "content": text}] for text in responses]
            named = {**columns, **extra, "completions": completions}
            if "prompts" in taken or len(columns) == len(sample):
                named["prompts"] = [prompt] * len(responses)
            return call(**named)

        if self._messages:
            return call_with(True)
        try:
            return call_with(False)
        except TypeError as error:
            if "string indices" not in str(error):
                raise
            self._messages = True  # it indexes completion[0]["content"]
            return call_with(True)

    def _results(self, returned: Any, count: int) -> list[RewardResult]:
        if not self.rule.is_batched:
            if self.rule.style == "verl" and isinstance(returned, dict):
                details = {k: v for k, v in returned.items() if k != "score"}
                result = as_result(returned.get("score"))
                result.details = {**details, **result.details}
                return [result]
            return [as_result(returned)]
        values = list(returned)
        if len(values) != count:
            raise ValueError(f"the rule returned {len(values)} values for {count} responses")
        return [as_result(value) for value in values]


def prompt_text(messages: list[dict[str, Any]]) -> str:
    """The text parts of all messages, one a line: what a text-only plug-in sees as the prompt."""
    texts: list[str] = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, str):
            texts.append(content)
        elif content:
            texts += [str(part["text"]) for part in content if part.get("type") == "text"]
    return "\n".join(texts)


def _timed(results: list[RewardResult], seconds: float) -> list[RewardResult]:
    """A batch's time is shared evenly by its responses, so that sums stay true."""
    for result in results:
        result.seconds = seconds / len(results)
    return results


def _describe(error: BaseException) -> str:
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    where = f" ({frame.tb_frame.f_code.co_filename}:{frame.tb_lineno})" if frame else ""
    return f"{type(error).__name__}: {str(error)[:1500]}{where}"


def details_json(details: dict[str, Any]) -> str:
    """Details as JSON text: plain data cross the process border, whatever a plug-in put there."""
    if not details:
        return ""
    try:
        text = json.dumps(details, default=str)
    except (TypeError, ValueError, RecursionError) as error:
        return json.dumps({"message": f"details left out: {error!r}"})
    if len(text) <= LONGEST_DETAILS:
        return text
    return json.dumps({"message": f"details of {len(text)} characters, cut", "start": text[:2000]})
