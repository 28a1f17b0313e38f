"""The recipe: from a folder of texts to a served reranker, in six stages that share only files."""
