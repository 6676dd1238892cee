"""The crowd in C: many stream clients that do what they are told on standard input."""
