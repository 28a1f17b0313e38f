"""From a corpus to questions with answers and scores: the parts of the stage sdg."""
