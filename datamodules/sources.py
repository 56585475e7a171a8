"""One data module a source, each with the source's defaults."""

from __future__ import annotations

from datamodules.datamodule import DemoDataModule
from datamodules.readers import LiberoReader, RoboCasaReader, RobomimicReader


class RobosuiteDataModule(DemoDataModule):
    """robosuite demos in robomimic's layout, such as ``videopolicy collect`` writes for any simulator."""

    layout = "robomimic"
    default_cameras = RobomimicReader.default_cameras


class RoboCasaDataModule(DemoDataModule):
    """RoboCasa v0.2; by default the paper's three cameras and the 7 of 12 action numbers for arm and gripper."""

    layout = "robocasa"
    default_cameras = RoboCasaReader.default_cameras
    default_action_dims = RoboCasaReader.default_action_dims


class LiberoDataModule(DemoDataModule):
    """LIBERO's official demos, and those regenerated from them, one task a file, stored upside down."""

    layout = "libero"
    default_cameras = LiberoReader.default_cameras
