"""Measurements of BoostedCalls beside its peers: `python -m bench`. Proof, not product."""
