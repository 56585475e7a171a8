"""Robot demos in HDF5: readers, windows, statistics, and the batches that training receives."""

from datamodules.batch import Batch, Window
from datamodules.errors import DatasetError
from datamodules.preprocessing import Preprocessing
from datamodules.statistics import ActionStatistics

__all__ = ["ActionStatistics", "Batch", "DatasetError", "Preprocessing", "Window"]
