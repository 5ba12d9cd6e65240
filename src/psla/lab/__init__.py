"""Experiments of several runs: the paper's tables (`tables/`), cross-validation (`folds/`), the teacher loop, the demo.

What a single training is lives in `psla.training`, what a number means in `psla.metrics`; here trainings are planned,
carried out, resumed, compared and reported, and a table of clips is described. Nothing of the package but the command
line needs this room.
"""
