"""Attackers that go on from where they stopped, so that the outer loop meets attacks of hundreds of steps.

An attack that is begun again in each outer step has as many steps as one step can pay for. A continued attacker makes a few
steps at each visit, and keeps what it gained: its displacement from θ is laid on the θ of its next visit, and its moments, its
age and its place in the data are as they were.
"""

import math
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ..adversaries.adversary import Adversary
from ..distributed.sharding import local, reshard
from ..optim.offload import to_host
from ..optim.stochastic_rounding import at_least_float32, stochastically_rounded
from .curriculum import Curriculum
from .progress import Progress
from .restored import Attacked


FIRST_ITERATE = "z"  # the state of a Schedule-Free optimizer that is a point, and moves with θ


@dataclass
class Attacker:
    """One attack, which may take several visits.

    Args:
        adversary ([`Adversary`]):
            The adversary, whose `num_steps` is the length of this attack.
        seed (`str`):
            Seed of its data order, drawn at its first visit.
        slot (`int`, *optional*):
            Its place in the pool; `None` for an attack that ends with its first visit.
        visit (`int`):
            Steps of this visit.
        age (`int`, *optional*, defaults to `0`):
            Steps that it made in earlier visits.

    Attributes:
        displacement (`list[torch.Tensor]`):
            φ − θ of each parameter, at least in float32, or for a LoRA attack the weights of its adapter; of sharded ones, this
            device's part. It is empty before the second visit.
        progress ([`Progress`]):
            State of optimizer and schedule.
    """

    adversary: Adversary
    seed: str
    slot: int | None
    visit: int
    age: int = 0
    displacement: list[torch.Tensor] = field(default_factory=list)
    progress: Progress = field(default_factory=Progress)

    @property
    def ends(self) -> bool:
        """Tells whether this visit is the last."""
        return self.age + self.visit == self.adversary.num_steps

    def lay_displacement(self, attacked: Attacked) -> None:
        """Puts the model, opened at today's θ, where the attacker is."""
        if not self.age:
            return
        device = attacked.parameters[0].device
        self.progress.states = [_moved(state, lambda value: value.to(device)) for state in self.progress.states]
        generator = torch.Generator(device).manual_seed(random.Random(f"{attacked.seed} rounding").getrandbits(31))
        with torch.no_grad():
            for p, value, state in zip(attacked.parameters, self.displacement, self.progress.states, strict=True):
                part, value = local(p), value.to(device, non_blocking=True)
                if self.adversary.lora_r is not None:
                    part.copy_(value)
                    continue
                if FIRST_ITERATE in state:
                    state[FIRST_ITERATE].add_(part)
                moved = part + value  # in float32 where the weights are in bfloat16
                part.copy_(stochastically_rounded(moved, generator) if part.dtype == torch.bfloat16 else moved)
        self.displacement = []  # what is left of it is in the weights
        reshard(attacked.model)

    def take_displacement(self, attacked: Attacked) -> None:
        """Remembers where the attacker is, before θ is put back."""
        theta = {id(tensor): value for tensor, value in attacked.snapshot}
        with torch.no_grad():
            if self.adversary.lora_r is not None:
                self.displacement = [local(p.detach()) for p in attacked.parameters]
                return
            self.displacement = []
            for p, state in zip(attacked.parameters, self.progress.states, strict=True):
                before = theta[id(p)].to(p.device, at_least_float32(p), non_blocking=True)
                self.displacement.append(local(p.detach()) - before)
                if FIRST_ITERATE in state:
                    state[FIRST_ITERATE].sub_(before)

    def state_dict(self) -> dict[str, Any]:
        """What [`attacker_from`] reads."""
        values = {
            "adversary": self.adversary.name,
            "length": self.adversary.num_steps,
            "seed": self.seed,
            "age": self.age,
        }
        return values | {"displacement": self.displacement, "progress": vars(self.progress)}

    def park(self) -> None:
        """Moves what it holds to the host."""
        self.displacement = [to_host(value) for value in self.displacement]
        self.progress.states = [_moved(state, to_host) for state in self.progress.states]


def attacker_from(state: dict[str, Any], adversary: Adversary, slot: int) -> Attacker:
    """The attacker that had a state, between two visits."""
    adversary = replace(adversary, num_steps=state["length"])
    progress = Progress(**state["progress"])
    return Attacker(adversary, state["seed"], slot, 0, state["age"], state["displacement"], progress)


def _moved(state: dict[str, Any], move: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, Any]:
    """An optimizer's state with its tensors moved; counters stay where the optimizer wants them."""
    return {
        name: move(value) if torch.is_tensor(value) and value.numel() > 1 else value for name, value in state.items()
    }


class AttackerPool:
    """The attackers of a training, visited in turn.

    Args:
        steps_per_visit (`int`, *optional*):
            Steps of a visit. By default every attack is whole, and the pool keeps none.
        num_attackers (`int`):
            Number of attackers that are kept.
        curriculum ([`Curriculum`]):
            Gives the longest attack.
        offload (`bool`):
            Keep displacements and moments on the host between visits.
    """

    def __init__(self, steps_per_visit: int | None, num_attackers: int, curriculum: Curriculum, offload: bool):
        self.steps_per_visit, self.curriculum, self.offload = steps_per_visit, curriculum, offload
        self.slots: list[Attacker | None] = [None] * (0 if steps_per_visit is None else num_attackers)

    def attacker(self, turn: int, adversary: Adversary, seed: str) -> Attacker:
        """The attacker whose turn it is: the one in its slot, or in an empty slot a new one.

        Args:
            turn (`int`):
                Number of the visit, over all outer steps.
            adversary ([`Adversary`]), seed (`str`):
                Adversary of a new attacker, drawn in this outer step, and seed of its other draws.
        """
        if self.steps_per_visit is None:
            return Attacker(adversary, seed, None, adversary.num_steps)
        slot = turn % len(self.slots)
        found, self.slots[slot] = self.slots[slot], None
        if found is None:
            length = self._drawn_length(adversary, seed)
            found = Attacker(replace(adversary, num_steps=length), seed, slot, 0)
        found.visit = min(self.steps_per_visit, found.adversary.num_steps - found.age)
        return found

    def odds(self, adversary: Adversary) -> float:
        """What a new attack is drawn by: the weight over the visits that the attack takes on average, so that weights are shares of
        visits however long attacks last. An honest user's weight is as much of it as the longest attack is of the longest of
        all: what the model does not yet hold costs no user anything."""
        odds = adversary.weight / self._mean_visits(adversary)
        return odds * self.curriculum.maximum / self.curriculum.longest if adversary.role == "benign" else odds

    def _mean_visits(self, adversary: Adversary) -> float:
        """Visits of an attack of this adversary that began now, on average."""
        if self.steps_per_visit is None:
            return 1.0
        if self._is_whole(adversary):
            return math.ceil(max(1, adversary.num_steps) / self.steps_per_visit)
        return (1 + self._most_visits(adversary)) / 2

    def _drawn_length(self, adversary: Adversary, seed: str) -> int:
        """Uniform from one visit to the longest attack, in whole visits: every attack passes the young ages, and what is hard to
        hold are the old ones. Of lengths drawn log-uniformly a sixth of all visits would be to attackers older than half the
        longest, in place of a quarter."""
        assert self.steps_per_visit is not None
        if self._is_whole(adversary):
            return adversary.num_steps
        return self.steps_per_visit * random.Random(f"{seed} length").randint(1, self._most_visits(adversary))

    def _most_visits(self, adversary: Adversary) -> int:
        """Visits of the longest attack by now; the last is whole too."""
        visit = self.steps_per_visit
        assert visit is not None
        longest = min(float(adversary.num_steps), self.curriculum.maximum)
        return min(max(1, round(longest / visit)), adversary.num_steps // visit)

    def _is_whole(self, adversary: Adversary) -> bool:
        """Tells whether the attack has all its steps, as one of a single visit has, and what an honest user learns: that is
        measured at its end too."""
        assert self.steps_per_visit is not None
        return adversary.role == "benign" or adversary.num_steps <= self.steps_per_visit

    @contextmanager
    def visited(self, attacker: Attacker, attacked: Attacked) -> Iterator[None]:
        """Keeps the attacker for its next visit, if the block ends well and its attack goes on."""
        goes_on = False
        try:
            yield
            goes_on = not attacker.ends
        finally:
            if not goes_on:
                attacker.displacement, attacker.progress = [], Progress()
        if goes_on:
            attacker.take_displacement(attacked)
            if self.offload:
                attacker.park()
            attacker.age += attacker.visit
            assert attacker.slot is not None
            self.slots[attacker.slot] = attacker

    def state_dict(self) -> dict[str, Any]:
        """What [`load_state_dict`] reads, in types that `torch.load(weights_only=True)` does."""
        return {
            "curriculum": self.curriculum.state_dict(),
            "slots": [None if attacker is None else attacker.state_dict() for attacker in self.slots],
        }

    def load_state_dict(self, state: dict[str, Any], adversaries: Iterable[Adversary]) -> None:
        """Goes on from where another run was, with the same adversaries."""
        by_name = {adversary.name: adversary for adversary in adversaries}
        self.curriculum.load_state_dict(state["curriculum"])
        for slot, saved in enumerate(state["slots"]):
            self.slots[slot] = None if saved is None else attacker_from(saved, by_name[saved["adversary"]], slot)
