"""Networks that hear: from a waveform at a stated rate to the probabilities of a clip and of its steps.

`frontends` and `backbones` have a file for each kind and a contract; `network` joins one of each with the `pooling`.
`inference` is the one way through a model, `file` what a model is on disk, `ensemble` several as one, `augmentation`
what only training does to its input. Nothing here knows a corpus, a recipe or a published name.
"""
