"""Kadenz for Python. So far: `kadenz.trace`, which reads recorded runs."""

__version__ = '0.1.0'
