"""The process around the engine: settings, socket, sweeps, metrics, life and death (DESIGN section 2)."""

from __future__ import annotations

MELTD_PACKAGE = "meltd:daemon"
"""
What :mod:`daemon.guard` looks for: python-daemon brings a package of the same name, and installing it after
meltd overwrites this file without a word.
"""
