"""The end of an attack whose numbers are no longer finite."""


class AttackDiverged(Exception):
    """The adversary's loss, or the gradient of the loss that it is judged by, is not finite."""
