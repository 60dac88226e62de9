"""`python -m rollout generate`: responses of a checkpoint to one prompt, for a person to read.

The engine runs in this process, without Ray; the prompt is encoded exactly as in training.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pretrain.data.media import MediaConfig, load_image
from pretrain.data.render import TAGS
from pretrain.run.console import say
from pretrain.run.errors import ConfigError
from rollout.config import EngineConfig, SamplingConfig


@dataclass
class GenerateConfig:
    """What to ask, of which checkpoint, and how to sample."""

    checkpoint: str = ""
    """Hugging Face directory, e.g. runs/quickstart/gspo/checkpoint."""
    prompt: str = ""
    """The user's text, taken literally."""
    image: Any = None
    """Path of an image; repeat `image=` for several. They come before the text."""
    video: Any = None
    """Path of a video; it comes before the text."""
    mode: str = "auto_think"
    """`think`, `no_think` or `auto_think`: the tag after the prompt."""
    n: int = 1
    """Responses to sample."""
    seed: int = 0
    """Equal seeds give equal responses."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)


def user_message(
    text: str, images: list[str], videos: list[str], mode: str = "auto_think"
) -> dict[str, Any]:
    """A user's turn: media first, then the text with the mode's tag.

    Images are read here, as training data are. `KeyeError` names one that can't be.
    """
    if mode not in TAGS:
        raise ConfigError(f"mode={mode} is none of {', '.join(TAGS)}")
    trusted = MediaConfig(roots=["/"])  # the person at the command line may read what they may
    read = [load_image(image, Path.cwd(), trusted) for image in images]
    parts: list[dict[str, Any]] = [{"type": "image", "image": image} for image in read]
    parts += [{"type": "video", "video": path} for path in videos]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text + TAGS[mode]}]}


def as_list(value: Any) -> list[str]:
    """None, one path or several, as a list."""
    if value is None:
        return []
    return [str(item) for item in value] if isinstance(value, (list, tuple)) else [str(value)]


def run(config: GenerateConfig) -> None:
    """Print `n` responses and why each one ended."""
    if not config.checkpoint or not config.prompt:
        raise ConfigError(
            "give checkpoint=DIRECTORY and prompt=TEXT, e.g. python -m rollout generate "
            'checkpoint=runs/quickstart/gspo/checkpoint prompt="how many red?" image=picture.png'
        )
    from pretrain.policy.encoder import open_encoder
    from rollout.engine import Engine, PromptRequest

    longest = config.engine.max_length - config.sampling.max_tokens
    encoder = open_encoder(config.checkpoint, longest)
    message = user_message(config.prompt, as_list(config.image), as_list(config.video), config.mode)
    prompt = encoder.encode([message], "prompt")
    engine = Engine(config.engine, config.checkpoint)
    request = PromptRequest.of(prompt, "prompt", config.seed, config.n)
    for k, response in enumerate(engine.generate([request], config.sampling)[0]):
        text = encoder.tokenizer.decode(response.ids.tolist(), skip_special_tokens=True)
        mean = f", mean log-prob {response.logprobs.mean():.3f}" if len(response.logprobs) else ""
        say(f"[{k + 1}/{config.n}] {text}")
        say(f"      {len(response.ids)} tokens, {response.finish_reason}{mean}")
    engine.close()
