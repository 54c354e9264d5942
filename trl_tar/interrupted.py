"""What Ctrl-C ends: one sentence, and the exit code of shells. Nothing heavy is imported."""

import os
import signal


EXIT_CODE = 128 + signal.SIGINT
SENTENCE = "stopped. The same command goes on where it was; what is finished is kept."


def end_without_a_word() -> None:
    """Makes Ctrl-C end this process at once: one of several would print a traceback beside its parent's sentence."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(EXIT_CODE))
