"""The embedded corpus: soundscapes synthesised from a seed and an index, at any rate, and the sounds they are made of.

`config`: what a clip is drawn from, and its address. `scene`: one clip, drawn and rendered. `corpus`: a whole corpus
with its splits. `sound_events` and `events`: the sounds; `recordings`: sounds of another corpus in their place.
Corpora that lie on the disk are in `psla.corpora`.
"""

from psla.synth.scene import FACTS as FACTS
from psla.synth.scene import Scene as Scene
from psla.synth.scene import SoundscapeConfig as SoundscapeConfig
from psla.synth.scene import ancestors as ancestors
from psla.synth.scene import class_ids as class_ids
from psla.synth.scene import class_probabilities as class_probabilities
from psla.synth.scene import describe as describe
from psla.synth.scene import from_uri as from_uri
from psla.synth.scene import synthesise as synthesise
from psla.synth.scene import table as table
from psla.synth.scene import uri as uri
from psla.synth.scene import vocabulary as vocabulary
