"""The load client: in C, and a slow one in Python for where there is no compiler."""
