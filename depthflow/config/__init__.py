"""The frozen dataclasses behind every command, a module each: a flag, its default, help and check are written once.

Paths are of disks that every node sees; commands make them absolute before work starts, since Ray Train changes its
workers' directory.
"""

from depthflow.config.demo import DemoConfig
from depthflow.config.doctor import CheckName, DoctorConfig
from depthflow.config.download import DownloadConfig
from depthflow.config.evaluate import EvaluateConfig
from depthflow.config.predict import PredictConfig
from depthflow.config.preprocess import PreprocessConfig
from depthflow.config.promote import PromoteConfig
from depthflow.config.recipe import NETWORK_STRIDE_PX, AugmentationName, EncoderName, LossName, NormName, Recipe
from depthflow.config.resources import PoolConfig, RayConfig
from depthflow.config.split import Split
from depthflow.config.submit import SubmitConfig
from depthflow.config.synthesize import SynthesizeConfig
from depthflow.config.train import TrainJob

__all__ = [
    "NETWORK_STRIDE_PX",
    "AugmentationName",
    "CheckName",
    "DemoConfig",
    "DoctorConfig",
    "DownloadConfig",
    "EncoderName",
    "EvaluateConfig",
    "LossName",
    "NormName",
    "PoolConfig",
    "PredictConfig",
    "PreprocessConfig",
    "PromoteConfig",
    "RayConfig",
    "Recipe",
    "Split",
    "SubmitConfig",
    "SynthesizeConfig",
    "TrainJob",
]
