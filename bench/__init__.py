"""Measurements of what the documentation promises; each prints its conditions and ends with 1 if it misses one."""
