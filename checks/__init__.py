"""Checks too heavy or too particular for the tests: a 1B shape, and real weights."""
