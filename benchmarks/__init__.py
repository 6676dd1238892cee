"""Measurements against a peer in the same run; each is a module named in ``__main__``."""
