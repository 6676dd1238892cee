"""``python -m triocast`` is the command ``triocast``."""

from triocast.cli import main

main()
