"""The counting simulator is shared with tests/simulators."""

from tests.simulators.conftest import counting

__all__ = ["counting"]
