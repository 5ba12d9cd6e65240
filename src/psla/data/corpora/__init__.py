"""One module a corpus: facts (source, licence, vocabulary) and a parser to Clips."""

from psla.data.corpora import esc50, folder, soundscape

__all__ = ["esc50", "folder", "soundscape"]
