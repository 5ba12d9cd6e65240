"""What probabilities are worth: the file of predictions, scores, comparison with intervals."""

from psla.metrics.scores import ClassScore, Scores, average_precisions, d_prime, score

__all__ = ["ClassScore", "Scores", "average_precisions", "d_prime", "score"]
