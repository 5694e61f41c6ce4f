"""Who scores: judges turn a step or a response into a score, and never see the student's probabilities."""
