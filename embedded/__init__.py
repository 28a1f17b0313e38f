"""The embedded checkpoint: a tiny trained reranker, made by ``python -m embedded``.

Development only: nothing here is shipped or imported by the other packages. The modules, in the
order of work: texts -> bpe -> initial -> groups (+ teacher) -> train -> measure.
"""
