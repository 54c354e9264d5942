"""What is printed."""

import warnings

import datasets
import torch
import transformers


def quiet() -> None:
    """One thread, and no warnings of libraries between the progress bars."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
