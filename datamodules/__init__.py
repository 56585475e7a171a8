"""Robot demos in HDF5: readers, windows, statistics, and the batches that training receives."""

from datamodules.augmentation import ColourJitter
from datamodules.batch import Batch, Observations, Window
from datamodules.datamodule import DemoDataModule
from datamodules.preprocessing import Preprocessing
from datamodules.sources import LiberoDataModule, RoboCasaDataModule, RobosuiteDataModule
from datamodules.statistics import ActionStatistics
from datamodules.windows import WindowDataset
from datamodules.writer import Demo, RobomimicWriter

__all__ = [
    "ActionStatistics",
    "Batch",
    "ColourJitter",
    "Demo",
    "DemoDataModule",
    "LiberoDataModule",
    "Observations",
    "Preprocessing",
    "RoboCasaDataModule",
    "RobomimicWriter",
    "RobosuiteDataModule",
    "Window",
    "WindowDataset",
]
