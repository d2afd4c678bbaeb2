"""TRCE and other published methods behind one call."""

from .job import MethodError as MethodError
from .registry import METHODS as METHODS
from .registry import erase_with as erase_with
