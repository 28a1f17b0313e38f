"""`make test-faults`: faults and bad inputs against a reranking server, ours or any other.

One module for each family of faults ends in its `FAULTS`; `__main__.py` runs them in order.
"""
