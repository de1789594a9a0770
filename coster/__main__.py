"""`python -m coster`."""

from coster.main import run

run()
