"""A terminal on which only our own lines appear."""

import io
import sys
import warnings

import datasets
import torch
import transformers

from ..interrupted import end_without_a_word


def quiet() -> None:
    """Sets one thread, which is faster than several on models of 0.2 M parameters, and silences the libraries."""
    torch.set_num_threads(1)
    silence()


def silence() -> None:
    """Silences the libraries' warnings about each other, and their progress bars: the phases have bars of their own."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()


def without_a_terminal() -> None:
    """Silences a process of several, since their progress bars would write over each other."""
    end_without_a_word()
    sys.stdout = io.StringIO()
