"""Hypothesis strategies for cases of the fourteen operations, and the menus of what kernels specialise on."""

from diffgdn.strategies import geometries
from diffgdn.strategies.generate import cases, representative, representatives
from diffgdn.strategies.menu import Build, Menu
from diffgdn.strategies.specialised_menu import specialised

__all__ = ["Build", "Menu", "cases", "geometries", "representative", "representatives", "specialised"]
