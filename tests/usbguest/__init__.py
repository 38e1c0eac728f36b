"""A real USB stack without hardware: a guest with Debian's kernel, to which simulated units are plugged."""
