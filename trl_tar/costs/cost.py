"""What a run costs."""

from dataclasses import dataclass

from ..adversaries.adversary import Adversary


@dataclass(frozen=True)
class Cost:
    """The size of an outer step.

    Args:
        batch_size (`int`, *optional*, defaults to `4`):
            Rows of D_retain, of the adversary and of D_TR alike.
        length (`int`, *optional*, defaults to `64`):
            Tokens of each row.
        num_steps (`int`, *optional*, defaults to `8`):
            K.
        interval (`int`, *optional*, defaults to `4`):
            Attack steps from one tamper-resistance gradient to the next.
        adversaries (`int`, *optional*, defaults to `1`):
            Attacks in each outer step.
        lora_r (`int`, *optional*):
            Rank of a LoRA adversary; all parameters by default.
        optimizer (`str`, *optional*, defaults to `"adamw"`):
            Of the attack, as in [`Adversary`].
    """

    batch_size: int = 4
    length: int = 64
    num_steps: int = 8
    interval: int = 4
    adversaries: int = 1
    lora_r: int | None = None
    optimizer: str = "adamw"

    @property
    def passes(self) -> int:
        """Forward and backward passes of an outer step."""
        return self.adversaries * (self.num_steps + self.num_steps // self.interval) + 1

    @property
    def tokens(self) -> int:
        """Of all forward and backward passes of an outer step."""
        return self.passes * self.batch_size * self.length

    @property
    def adversary(self) -> Adversary:
        """Each attack."""
        return Adversary(
            "bench",
            "bench",
            learning_rate=1e-6,
            num_steps=self.num_steps,
            batch_size=self.batch_size,
            optimizer=self.optimizer,
            lora_r=self.lora_r,
        )
