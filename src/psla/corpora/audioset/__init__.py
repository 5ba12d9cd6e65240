"""AudioSet: 2,084,320 clips of 10 s from as many videos, 527 classes; the labels are published, the sound is not.

`read_lists` reads the published labels (`lists`); `scan` joins them with the sound files that you have (`files`,
`corpus`). Not covered: the strong labels of 2021; fetching sound from video sites.
"""

from psla.corpora.audioset.corpus import read, scan
from psla.corpora.audioset.lists import (
    ADDRESSES,
    CLASS_LIST,
    FACTS,
    GRAPH,
    LISTS,
    PLACEHOLDER,
    download_lists,
    open_classes,
    read_class_list,
    read_lists,
)

__all__ = ["ADDRESSES", "CLASS_LIST", "FACTS", "GRAPH", "LISTS", "PLACEHOLDER"]
__all__ += ["download_lists", "open_classes", "read", "read_class_list", "read_lists", "scan"]
