"""The techniques of the paper, one module for each letter of its name; distillation, conditions.

pretraining (P), sampling (S: balanced sampling, the plan of an epoch, coverage), labeling (L: the rule; enhancement: of
a table of clips), aggregation (A). They work on labels, predictions, networks, waveforms and files;
nothing here runs a training, opens a clip, or prints.
"""
