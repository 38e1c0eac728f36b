"""Tests against real programs of the distribution."""
