"""A place in a stream of samples, bound to the data it counts.

Invariant: a cursor is never applied to other data than it was taken from; a change of the data
between an interruption and the resume is an error, not a silent skip or repeat.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pretrain.run.errors import KeyeError


@dataclass(slots=True)
class Cursor:
    """How many samples of which data have been handed out."""

    position: int
    """Index of the next sample of the stream."""
    fingerprint: str
    """Hash of everything that decides which sample has which index."""

    def state(self) -> dict[str, int | str]:
        """A JSON-serialisable copy."""
        return {"position": self.position, "fingerprint": self.fingerprint}

    def load_state(self, state: Mapping[str, int | str], what: str) -> None:
        """Take over the position; `KeyeError` naming `what` if the data are not the same."""
        if state["fingerprint"] != self.fingerprint:
            raise KeyeError(
                f"cannot resume: {what} is not the data of the interrupted run (fingerprint "
                f"{self.fingerprint} now, {state['fingerprint']} then). Restore the data and "
                "settings, or start a new run."
            )
        self.position = int(state["position"])
