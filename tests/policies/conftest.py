"""The counting simulator and the real command are shared with other folders."""

from tests.simulators.conftest import counting
from tests.videopolicy.conftest import run_lightning

__all__ = ["counting", "run_lightning"]
