import numpy as np
import pytest

from simulators.errors import SimulatorError
from simulators.experts.libero_object import GRASP_OFFSETS, ORDER, LiberoObjectExpert, turn

STEP = 0.05  # metres an action unit, as OSC_POSE


class ToyScene:
    """A point gripper that goes where it is told; a held item follows it, a released one drops to the floor."""

    def __init__(self, item: str = "milk", slips: int = 0) -> None:
        self.gripper = np.array([-0.15, 0.0, 0.26])
        self.item = np.array([0.05, -0.1, 0.07])
        self.basket = np.array([0.0, 0.26, 0.0])
        self.held = False
        self.slips = slips
        self.expert = LiberoObjectExpert(
            item, self.item.copy, self.basket.copy, lambda: self.gripper.copy(), lambda: np.eye(3)
        )
        self.offset = np.array(GRASP_OFFSETS[item])
        self.legs: list[str] = []

    def step(self, noise: np.ndarray | None = None) -> None:
        action = self.expert.act().astype(float)
        self.legs.append(self.expert.leg)
        if noise is not None:
            action = np.clip(action + noise * self.expert.noise_scale(), -1, 1)
        motion = STEP * action[:3]
        self.gripper += motion
        if action[6] > 0 and np.linalg.norm(self.gripper - self.item - self.offset) < 0.03:
            self.held = True
        if action[6] < 0:
            self.held = False
        if self.held and self.slips and self.expert.leg == "carry":
            self.slips -= 1
            self.held = False
            self.item[2] = 0.07
        if self.held:
            self.item += motion

    def solved(self) -> bool:
        return not self.held and bool(np.linalg.norm((self.item - self.basket)[:2]) < 0.06)


@pytest.mark.parametrize("item", sorted(GRASP_OFFSETS))
def test_every_item_is_released_over_the_basket(item: str) -> None:
    scene = ToyScene(item)
    for _ in range(120):
        scene.step()
        if scene.expert.leg == "release":
            break
    assert scene.solved()
    assert list(dict.fromkeys(scene.legs)) == list(ORDER)


def test_noise_on_the_way_down_is_corrected() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        scene = ToyScene()
        noise = np.zeros(7)
        for _ in range(200):
            noise = 0.6 * noise + 0.8 * rng.standard_normal(7)
            scene.step(0.3 * noise)
            if scene.solved():
                break
        assert scene.solved()


def test_a_slipped_item_is_picked_up_again() -> None:
    scene = ToyScene(slips=1)
    while not scene.solved():
        scene.step()
        assert len(scene.legs) < 280
    assert scene.legs.count("grasp") == 2 * 12


def test_a_missed_grasp_ends_with_closed_fingers_beside_the_item_and_is_mended() -> None:
    for seed in range(20):
        scene = ToyScene()
        for action in scene.expert.mistake(np.random.default_rng(seed)):
            scene.gripper += STEP * action[:3]
        assert action[6] == 1.0
        missed_by = scene.gripper - scene.item - scene.offset
        assert 0.02 < np.linalg.norm(missed_by[:2]) < 0.07
        assert -0.01 < missed_by[2] < 0.5
        assert not scene.held
        assert scene.expert.act()[6] == -1.0
        while not scene.solved():
            scene.step()
            assert len(scene.legs) < 120


def test_noise_ends_when_the_fingers_close() -> None:
    scene = ToyScene()
    while not scene.solved():
        scene.step()
        open_hand = scene.expert.leg in ("approach", "descend")
        assert scene.expert.noisy == open_hand
        assert bool(scene.expert.noise_scale().any()) == open_hand


def test_turn_gives_the_rotation_vector_between_two_orientations() -> None:
    angle = 0.01
    about_z = np.array([[1, -angle, 0], [angle, 1, 0], [0, 0, 1]])  # to first order
    assert turn(np.eye(3), about_z) == pytest.approx([0, 0, angle])
    assert turn(about_z, np.eye(3)) == pytest.approx([0, 0, -angle])


def test_an_unknown_item_lists_those_with_a_grasp() -> None:
    with pytest.raises(SimulatorError, match=r"no scripted grasp for 'anvil'.*'alphabet_soup'"):
        LiberoObjectExpert("anvil", np.zeros(3).copy, np.zeros(3).copy, np.zeros(3).copy, np.eye(3).copy)
