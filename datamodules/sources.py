"""One data module a source, each with the source's defaults."""

from __future__ import annotations

from datamodules.datamodule import DemoDataModule


class RobosuiteDataModule(DemoDataModule):
    """robosuite demos in robomimic's layout, such as ``videopolicy collect`` writes for any simulator."""

    layout = "robomimic"
    default_cameras = ("agentview", "robot0_eye_in_hand")


class RoboCasaDataModule(DemoDataModule):
    """RoboCasa v0.2; by default the paper's three cameras and the 7 of 12 action numbers for arm and gripper."""

    layout = "robocasa"
    default_cameras = ("robot0_eye_in_hand", "robot0_agentview_left", "robot0_agentview_right")
    default_action_dims = (0, 1, 2, 3, 4, 5, 6)


class LiberoDataModule(DemoDataModule):
    """LIBERO's official demos, one task a file, stored upside down."""

    layout = "libero"
    default_cameras = ("agentview", "robot0_eye_in_hand")
