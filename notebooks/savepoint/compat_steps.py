"""Private helpers of compat.py. Yours may live here, or there, or not exist: no check looks."""

from __future__ import annotations
