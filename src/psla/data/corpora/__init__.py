"""One module a corpus: facts (source, licence, vocabulary) and a parser to Clips."""

from psla.data.corpora import audioset, esc50, folder, fsd50k, soundscape

__all__ = ["audioset", "esc50", "folder", "fsd50k", "soundscape"]
