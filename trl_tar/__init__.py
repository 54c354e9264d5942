from .adversary import Adversary, sweep
from .tar_config import TARConfig
from .tar_trainer import TARTrainer
