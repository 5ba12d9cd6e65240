"""Training: a recipe and clips go in, the folder of a run comes out.

recipe (and presets/) says what is to be done; session puts the parts together and goes from epoch to epoch; trainer has
the steps, loader feeds them, devices spreads them, state keeps where they stand; run is the folder. What the paper's
techniques compute is in `psla.techniques`; experiments of several runs are in `psla.lab`.
"""
