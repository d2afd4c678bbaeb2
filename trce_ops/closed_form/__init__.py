"""Stage 1 of TRCE: one matrix for the whole model, solved in closed form."""

from .solve import NotPositiveDefinite as NotPositiveDefinite
from .solve import solve_context_map as solve_context_map
