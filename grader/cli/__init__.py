"""The ``course`` command. Each module here holds one audience's verbs."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point. Help and usage errors come before anything heavy is imported."""
    from grader import lighter

    lighter.skip_iri_grammar()
    from grader.cli.app import app

    for stream in (sys.stdout, sys.stderr):
        # Windows consoles and C locales must not turn a check mark into a crash.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    app(prog_name="course")
