"""The embedded corpus: soundscapes synthesised from a seed and an index, at any rate, and the sounds they are made of.

`config`: what a clip is drawn from, and its address. `scene`: one clip, drawn and rendered. `corpus`: a whole corpus
with its splits. `sound_events` and `events`: the sounds; `recordings`: sounds of another corpus in their place.
`plain_signals`: silence, noises, tones and clicks by themselves, a corpus of their own.
Corpora that lie on the disk are in `psla.corpora`.
"""

from psla.synth.config import SoundscapeConfig, from_uri, uri
from psla.synth.scene import FACTS, Scene, ancestors, class_ids, describe, synthesise, table, vocabulary

__all__ = ["FACTS", "Scene", "SoundscapeConfig", "ancestors", "class_ids", "describe", "from_uri", "synthesise"]
__all__ += ["table", "uri", "vocabulary"]
