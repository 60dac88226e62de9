"""How a model is asked for a hint: one prompt per level, and what is taken from its answer.

A level's prompt says what the hint is for and what it may not hold; the same limits are then
checked on the text that comes back (`rollout.hint_leaks`), and a refused hint is asked for again
with the reason.
"""

from __future__ import annotations

from typing import Any

from pretrain.data.sample import PLACEHOLDERS, Sample

SYSTEM = (
    "You write hints for a student who cannot solve a problem. There are five levels, each saying "
    "a little more than the one before. You know the reference answer; the student must not learn "
    "it from you before level 5. Answer with the text of the hint alone, in one or two sentences "
    "and in the language of the question."
)

INSTRUCTIONS = {
    1: "Write a level 1 hint: a concept or an observation that helps to see what matters. Name no "
    "method, no formula, no calculation and not the answer.",
    2: "Write a level 2 hint: the strategy, how one could go about it. Give no formula, no step "
    "of the solution, no calculation and not the answer.",
    3: "Write a level 3 hint: the tool, rule or formula that is needed. Calculate nothing with it, "
    "put no numbers in and do not give the answer.",
    4: "Write a level 4 hint: the first concrete step of the solution, carried out. Stop after it "
    "and do not give the answer.",
    5: "Write a level 5 hint: the complete solution, step by step, ending with the answer.",
}
"""What is asked for at each level."""


def request(
    sample: Sample, level: int, refused: tuple[str, str] | None = None
) -> list[dict[str, Any]]:
    """Chat messages that ask for hint L`level` of a sample, its media included.

    `refused`: the last attempt and why it was refused.
    """
    parts = [f"Problem:\n{problem(sample)}", f"Reference answer: {sample.answer}"]
    if sample.solution:
        parts.append(f"Reference solution:\n{sample.solution}")
    parts.append(INSTRUCTIONS[level])
    if refused:
        text, reason = refused
        parts.append(f"Your last attempt was refused: {reason}. It read: {text}\nWrite another.")
    content = [*sample.media(), {"type": "text", "text": "\n\n".join(parts)}]
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": content}]


def problem(sample: Sample) -> str:
    """All texts of the sample's messages, in order."""
    texts = []
    for message in sample.messages:
        content = message["content"]
        if isinstance(content, str):
            texts.append(content)
        else:
            texts += [part["text"] for part in content if part["type"] == "text"]
    return "\n".join(texts)


def hint_text(reply: str) -> str:
    """The hint in a model's reply: no reasoning, no label, no tags, white space joined.

    Placeholders of media are taken out: as text they would stand for a medium that isn't there.
    """
    text = reply.rpartition("</think>")[2]
    for mark in (*PLACEHOLDERS, "<|im_end|>", "<|endoftext|>", "<answer>", "</answer>"):
        text = text.replace(mark, " ")
    text = " ".join(text.split())
    label, colon, rest = text.partition(":")
    if colon and label.strip("*# ").casefold() in {"hint", *(f"hint l{k}" for k in range(1, 6))}:
        text = rest
    return text.strip(' "*')
