"""`python -m reverie` is the `reverie` command."""

from .experiments.cli import main

raise SystemExit(main())
