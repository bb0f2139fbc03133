"""`python -m invdiff`: the command line."""

from __future__ import annotations

from invdiff.cli.main import main

if __name__ == "__main__":
    main()
