"""The oracle: the article's equations in NumPy, node by node, the sums written out."""

from manualbp.reference.network import Activity, Gradients, Network, backward, cost, forward, update

__all__ = ["Activity", "Gradients", "Network", "backward", "cost", "forward", "update"]
