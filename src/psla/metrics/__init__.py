"""What probabilities are worth: the file of predictions, scores, comparison with intervals, significance.

Predictions and labels meet here by clip id and become numbers. How probabilities come about is in `model`, what the
numbers say of a paper's claim in `lab`; nothing here reads a sound or a run.
"""

from psla.metrics.scores import ClassScore, Scores, average_precisions, d_prime, score

__all__ = ["ClassScore", "Scores", "average_precisions", "d_prime", "score"]
