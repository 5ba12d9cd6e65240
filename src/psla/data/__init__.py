"""Clips and their labels, whatever corpus they come from.

Here live the vocabulary, the ontology, labels, the table of clips, its waveforms (`source`), what of it is on the disk
(`inventory`) and the pack of a corpus (`pack`). No facts of a single corpus, no probabilities and no torch.
"""
