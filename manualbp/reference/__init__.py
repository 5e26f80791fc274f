"""The oracle: the article's equations in NumPy, node by node, the sums written out."""

from manualbp.reference.derivatives import Climb, Derived, Slopes, derive, descend
from manualbp.reference.network import Activity, Gradients, Network, backward, cost, forward, update

__all__ = ["Activity", "Climb", "Derived", "Gradients", "Network", "Slopes", "backward", "cost",
           "derive", "descend", "forward", "update"]  # fmt: skip
