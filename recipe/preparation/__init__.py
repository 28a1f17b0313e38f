"""From scored questions to training groups and an evaluation set: the parts of the stage prep."""
