"""AudioSet: 2,084,320 clips of 10 s from as many videos, 527 classes; the labels are published, the sound is not.

`read_lists` reads the published labels (`lists`); `scan` joins them with the sound files that you have (`files`,
`corpus`). Not covered: the strong labels of 2021; fetching sound from video sites.
"""

from psla.corpora.audioset.corpus import read as read
from psla.corpora.audioset.corpus import scan as scan
from psla.corpora.audioset.lists import ADDRESSES as ADDRESSES
from psla.corpora.audioset.lists import CLASS_LIST as CLASS_LIST
from psla.corpora.audioset.lists import FACTS as FACTS
from psla.corpora.audioset.lists import GRAPH as GRAPH
from psla.corpora.audioset.lists import LISTS as LISTS
from psla.corpora.audioset.lists import PLACEHOLDER as PLACEHOLDER
from psla.corpora.audioset.lists import download_lists as download_lists
from psla.corpora.audioset.lists import open_classes as open_classes
from psla.corpora.audioset.lists import read_class_list as read_class_list
from psla.corpora.audioset.lists import read_lists as read_lists
