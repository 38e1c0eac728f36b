"""RCCMD for servers: hears "shut down" from a UPS adapter and runs your command; a program of its own.

Imports only itself and the standard library (Python 3.9 or newer), so that it can be copied to any server.
"""

VERSION = "0.1.0"  # the same as agent.model.VERSION
