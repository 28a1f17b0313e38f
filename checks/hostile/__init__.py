"""`make hostile`: small bodies that decode to many objects, on every surface.

`bodies.py` is the table of them, `sending.py` sends one, `watch.py` measures health and memory.
"""
