"""Measuring rerankers on a BEIR folder: candidates, scores, metrics, drift."""
