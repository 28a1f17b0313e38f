"""The embedded checkpoint: a tiny, really trained reranker, made by ``python -m embedded``.

Development only: nothing here is shipped or imported by the other packages. The rooms, in the
order of work: texts -> bpe -> initial -> groups (+ teacher) -> train -> measure.
"""
