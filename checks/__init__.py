"""Checks that are too slow or need too much for the tests: the 1B shape, real weights, soak, …"""
