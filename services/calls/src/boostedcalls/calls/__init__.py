"""Placing calls, and the only writer of their state."""
