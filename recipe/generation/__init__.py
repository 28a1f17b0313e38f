"""From a corpus to questions with answers and scores: what the stage sdg is made of."""
