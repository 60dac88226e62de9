"""`python -m rollout chat`: a conversation with a checkpoint in the terminal, media included.

Lines that begin with `/` are commands: `/image PATH` and `/video PATH` attach a medium to the next
message, `/new` forgets the conversation, `/quit` ends it. Without a terminal, lines are read from
standard input until it ends.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pretrain.run.console import console, say, warn
from pretrain.run.errors import ConfigError, KeyeError
from rollout.config import EngineConfig, SamplingConfig
from rollout.generate import as_list, user_message
from rollout.seeds import stable_seed

HELP = "/image PATH, /video PATH, /new, /quit"


@dataclass
class ChatConfig:
    """Whom to talk to, and the first message."""

    checkpoint: str = ""
    """Hugging Face directory, e.g. runs/quickstart/gspo/checkpoint."""
    prompt: str = ""
    """First message, taken literally; empty: the first line typed."""
    image: Any = None
    """Image of the first message; repeat `image=` for several."""
    video: Any = None
    """Video of the first message."""
    mode: str = "auto_think"
    """`think`, `no_think` or `auto_think`: the tag after every message."""
    seed: int = 0
    """Equal seeds and messages give equal replies."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)


class Conversation:
    """Messages so far, and the media waiting for the next one.

    `answer(messages, turn)` yields the reply's text as it grows.
    """

    def __init__(
        self, answer: Callable[[list[dict[str, Any]], int], Iterator[str]], mode: str
    ) -> None:
        self.answer, self.mode = answer, mode
        self.messages: list[dict[str, Any]] = []
        self.images: list[str] = []
        self.videos: list[str] = []

    def line(self, text: str) -> bool:
        """Take one line of input; False when the conversation is over."""
        word, _, rest = text.strip().partition(" ")
        if word == "/quit":
            return False
        if word == "/new":
            self.messages, self.images, self.videos = [], [], []
        elif word == "/image":
            self.images.append(rest.strip())
        elif word == "/video":
            self.videos.append(rest.strip())
        elif word.startswith("/"):
            warn(f"{word} is no command; there are {HELP}")
        elif text.strip():
            self.send(text.strip())
        return True

    def send(self, text: str) -> None:
        """Send a message with the waiting media and print the reply; a bad one is taken back."""
        images, videos = self.images, self.videos
        self.images, self.videos = [], []
        try:
            message = user_message(text, images, videos, self.mode)
            reply = self._print([*self.messages, message])
        except KeyeError as error:
            warn(f"{error} The message is forgotten.")
            return
        self.messages += [message, {"role": "assistant", "content": reply}]

    def _print(self, messages: list[dict[str, Any]]) -> str:
        text = shown = ""
        for text in self.answer(messages, len(messages) // 2):
            if text.endswith("\N{REPLACEMENT CHARACTER}"):  # a character cut in two
                continue
            console.file.write(text[len(shown) :])
            console.file.flush()
            shown = text
        console.file.write(text[len(shown) :] + "\n")
        return text


def answers(config: ChatConfig) -> Callable[[list[dict[str, Any]], int], Iterator[str]]:
    """The checkpoint in an engine, as a function from messages to a growing reply."""
    from pretrain.policy.encoder import open_encoder
    from rollout.engine import Engine, PromptRequest

    longest = config.engine.max_length - config.sampling.max_tokens
    encoder = open_encoder(config.checkpoint, longest)
    engine = Engine(config.engine, config.checkpoint)

    def answer(messages: list[dict[str, Any]], turn: int) -> Iterator[str]:
        prompt = encoder.encode(messages, f"message {turn + 1}")
        seed = stable_seed(config.seed, turn)
        for ids in engine.stream(PromptRequest.of(prompt, "chat", seed, 1), config.sampling):
            yield encoder.tokenizer.decode(ids.tolist(), skip_special_tokens=True)

    return answer


def run(config: ChatConfig) -> None:
    """Talk until the input ends."""
    if not config.checkpoint:
        raise ConfigError("give checkpoint=DIRECTORY, e.g. runs/quickstart/gspo/checkpoint")
    conversation = Conversation(answers(config), config.mode)
    conversation.images = as_list(config.image)
    conversation.videos = as_list(config.video)
    if config.prompt:
        conversation.send(config.prompt)
    terminal = sys.stdin.isatty()
    if terminal:
        say(HELP)
    while True:
        if terminal:
            console.print("[bold]> [/bold]", end="")
        line = sys.stdin.readline()
        if not line or not conversation.line(line):
            return
