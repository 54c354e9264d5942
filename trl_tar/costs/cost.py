"""The size of an outer step, and the passes that it consists of."""

from dataclasses import dataclass
from typing import Literal

from ..adversaries.adversary import Adversary


VISITS = 10**4  # of the longest continued attack, so that next to none ends while its memory is measured
PassName = Literal["reference", "retain", "attack", "judgement"]


@dataclass(frozen=True)
class Cost:
    """The size of an outer step.

    Args:
        batch_size (`int`, *optional*, defaults to `4`):
            Rows in a batch. Batches of D_retain, of the adversary and of D_TR have the same size.
        length (`int`, *optional*, defaults to `64`):
            Tokens in each row.
        num_steps (`int`, *optional*, defaults to `8`):
            Steps of each attack: K in the paper.
        interval (`int`, *optional*, defaults to `4`):
            Attack steps from one tamper-resistance gradient to the next.
        adversaries (`int`, *optional*, defaults to `1`):
            Attacks in each outer step: S in the paper.
        lora_r (`int`, *optional*):
            Rank of a LoRA attack. By default an attack trains all parameters.
        optimizer (`str`, *optional*, defaults to `"adamw"`):
            Optimizer of the attack, as in [`Adversary`].
        output_anchor (`bool`, *optional*, defaults to `False`):
            The retain loss also compares next-token distributions, as with a `kl_weight` above 0 in [`TARConfig`].
        attackers (`int`, *optional*, defaults to `0`):
            Continued attackers that are kept, of which `num_steps` are the steps of a visit; 0 for whole attacks.
    """

    batch_size: int = 4
    length: int = 64
    num_steps: int = 8
    interval: int = 4
    adversaries: int = 1
    lora_r: int | None = None
    optimizer: str = "adamw"
    output_anchor: bool = False
    attackers: int = 0

    @property
    def attack(self) -> list[PassName]:
        """Passes of one attack in order: `"attack"` for each step, and a `"judgement"` (∇L_TR) after every `interval` steps."""
        passes: list[PassName] = []
        for step in range(self.num_steps):
            passes.append("attack")
            if (step + 1) % self.interval == 0:
                passes.append("judgement")
        return passes

    @property
    def outer_step(self) -> list[PassName]:
        """All passes of an outer step in order. The first gives what the anchors compare with and has no backward pass."""
        return ["reference", "retain", *self.adversaries * self.attack]

    @property
    def passes(self) -> int:
        """The number of passes of an outer step that go forward and backward."""
        return len(self.outer_step) - 1

    @property
    def tokens(self) -> int:
        """The number of tokens that all forward and backward passes of an outer step read together."""
        return self.passes * self.batch_size * self.length

    @property
    def adversary(self) -> Adversary:
        """The attack of this size, as the trainer takes it."""
        return Adversary(
            "bench",
            "bench",
            learning_rate=1e-6,  # a choice: what a step costs does not depend on it
            num_steps=self.num_steps * (VISITS if self.attackers else 1),
            batch_size=self.batch_size,
            optimizer=self.optimizer,
            lora_r=self.lora_r,
        )
