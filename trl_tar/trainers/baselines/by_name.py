"""The earlier defences by name: a row here is all that the recipes and the tests of all defences need."""

from collections.abc import Mapping

from ..forget_trainer import ForgetTrainer
from .booster import BoosterTrainer
from .ctrap import CTRAPTrainer
from .grad_diff import GradDiffTrainer
from .max_entropy import MaxEntropyTrainer
from .min_posterior import MinPosteriorTrainer
from .r2d2 import R2D2Trainer
from .rep_noise import RepNoiseTrainer
from .seam import SEAMTrainer
from .sim_npo import SimNPOTrainer
from .vaccine import VaccineTrainer


# Name of the phase → trainer. Its `config_class` has the defence's words (`method`) and named settings (`presets`), and its
# `forget_objective` says what D_forget is: text is a phase 1 of both recipes, pairs of that for refusal.
BASELINES: Mapping[str, type[ForgetTrainer]] = {
    "max_entropy": MaxEntropyTrainer,
    "min_posterior": MinPosteriorTrainer,
    "grad_diff": GradDiffTrainer,
    "sim_npo": SimNPOTrainer,
    "rep_noise": RepNoiseTrainer,
    "r2d2": R2D2Trainer,
    "vaccine": VaccineTrainer,
    "booster": BoosterTrainer,
    "ctrap": CTRAPTrainer,
    "seam": SEAMTrainer,
}
