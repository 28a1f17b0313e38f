"""The embedded checkpoints, a tiny reranker and embedder, made by ``python -m embedded``.

Development only: nothing here is shipped or imported by the other packages. The modules, in the
order of work: texts -> bpe -> initial -> groups (+ teacher) -> train, train_embedder (by the
recipe's trainer, fit) -> measure -> card.
"""
