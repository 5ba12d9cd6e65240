"""Trackers: where the curves of a training also appear, one file each; the run's folder stays the truth.

`psla train --log NAME`. What a tracker is, and how it follows a run, is in `contract.py`.
"""
