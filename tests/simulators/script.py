"""A link that answers from a script: for driver tests without a line and without waiting."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from agent.link import Silence
from agent.model import Reply
from agent.pretend import Unit

Answer = bytes | None | Callable[[], bytes | None]


class ScriptLink:
    """`answers` maps a command (without CR) to its answer, to None (silence), or to a function that gives either.

    What is not in it is silence. `sent` is everything that was sent; `waited_s` what silence would have cost.
    """

    wake_fd: int | None = None

    def __init__(self, answers: Mapping[bytes, Answer]) -> None:
        self.answers: dict[bytes, Answer] = dict(answers)
        self.sent: list[bytes] = []
        self.now_s = 1000.0
        self.waited_s = 0.0
        self.closed = False

    def ask(self, command: bytes, *, end: bytes = b"\r", limit_bytes: int = 512, within_s: float = 3.0) -> Reply:
        self.sent.append(command)
        answer = self.answers.get(command.rstrip(b"\r"))
        if callable(answer):
            answer = answer()
        if answer is None:
            self.waited_s += within_s
            self.now_s += within_s
            raise Silence(f"{command!r}: no answer within {within_s:g} s")
        self.now_s += 0.25
        return Reply(answer.partition(end)[0], self.now_s)

    def send(self, command: bytes) -> None:
        self.sent.append(command)

    def close(self) -> None:
        self.closed = True


class LateLink:
    """A serial line as agent/link.py has it, in time that is a number: an answer comes when it comes, and is that of
    the question which is waiting then. `say` gives the answer to a question, with its end, and how late it is."""

    wake_fd: int | None = None

    def __init__(self, say: Callable[[bytes], tuple[bytes, float]]) -> None:
        self._say = say
        self.now_s = self._ready_s = 1000.0
        self._coming: list[tuple[float, bytes]] = []
        self.sent: list[bytes] = []

    def ask(self, command: bytes, *, end: bytes = b"\r", limit_bytes: int = 512, within_s: float = 3.0) -> Reply:
        self.now_s = max(self.now_s, self._ready_s)
        self._coming = [one for one in self._coming if one[0] > self.now_s]
        self.sent.append(command)
        answer, late_s = self._say(command)
        if answer:
            self._coming = sorted((*self._coming, (self.now_s + late_s, answer)))
        if not self._coming or self._coming[0][0] > self.now_s + within_s:
            self.now_s += within_s
            raise Silence(f"{command!r}: no answer within {within_s:g} s")
        self.now_s, answer = self._coming.pop(0)
        return Reply(answer.partition(end)[0], self.now_s)

    def rest(self, for_s: float) -> None:
        self._ready_s = max(self._ready_s, self.now_s + for_s)

    def send(self, command: bytes) -> None:
        self.sent.append(command)

    def close(self) -> None:
        pass


class SpeakerLink(ScriptLink):
    """A link to a pretend unit that answers in one dialect, see dialects.SPEAKERS; an empty answer is silence."""

    def __init__(self, speak: Callable[[Unit, bytes], bytes], unit: Unit) -> None:
        super().__init__({})
        self._speak, self.unit = speak, unit
        self._inbox = b""

    def ask(self, command: bytes, *, end: bytes = b"\r", limit_bytes: int = 512, within_s: float = 3.0) -> Reply:
        self._inbox += command  # a unit waits for the CR, with all that came before it
        whole, cr, self._inbox = self._inbox.rpartition(b"\r")
        self.answers[command.rstrip(b"\r")] = (self._speak(self.unit, whole) or None) if cr else None
        return super().ask(command, end=end, limit_bytes=limit_bytes, within_s=within_s)
