"""`python -m syntic_cli` is `syntic`."""

from .cli import main

main()
