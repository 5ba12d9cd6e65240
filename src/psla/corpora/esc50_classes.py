"""Which class of AudioSet a category of ESC-50 is.

Made by reading both lists (https://github.com/karolpiczak/ESC-50, https://research.google.com/audioset/ontology/): the
most specific class of the 527 that holds for every recording of the category. Animals are taken by the animal where
their calls vary (dog: barks and howls), by the call where all recordings are of it (rooster: crowing).
"""

from __future__ import annotations

AUDIOSET_CLASS: dict[str, str] = {
    "dog": "/m/0bt9lr",  # Dog
    "rooster": "/m/07qn5dc",  # Crowing, cock-a-doodle-doo
    "pig": "/m/068zj",  # Pig
    "cow": "/m/01xq0k1",  # Cattle, bovinae
    "frog": "/m/09ld4",  # Frog
    "cat": "/m/01yrx",  # Cat
    "hen": "/m/07st89h",  # Cluck
    "insects": "/m/03vt0",  # Insect
    "sheep": "/m/07bgp",  # Sheep
    "crow": "/m/04s8yn",  # Crow
    "rain": "/m/06mb1",  # Rain
    "sea_waves": "/m/034srq",  # Waves, surf
    "crackling_fire": "/m/07pzfmf",  # Crackle
    "crickets": "/m/09xqv",  # Cricket
    "chirping_birds": "/m/07pggtn",  # Chirp, tweet
    "water_drops": "/m/07r5v4s",  # Drip
    "wind": "/m/03m9d0z",  # Wind
    "pouring_water": "/m/07prgkl",  # Pour
    "toilet_flush": "/m/01jt3m",  # Toilet flush
    "thunderstorm": "/m/0jb2l",  # Thunderstorm
    "crying_baby": "/t/dd00002",  # Baby cry, infant cry
    "sneezing": "/m/01hsr_",  # Sneeze
    "clapping": "/m/0l15bq",  # Clapping
    "breathing": "/m/0lyf6",  # Breathing
    "coughing": "/m/01b_21",  # Cough
    "footsteps": "/m/07pbtc8",  # Walk, footsteps
    "laughing": "/m/01j3sz",  # Laughter
    "brushing_teeth": "/m/012xff",  # Toothbrush
    "snoring": "/m/01d3sd",  # Snoring
    "door_wood_knock": "/m/07r4wb8",  # Knock
    "mouse_click": "/m/07qc9xj",  # Clicking
    "keyboard_typing": "/m/01m2v",  # Computer keyboard
    "door_wood_creaks": "/m/07qh7jl",  # Creak
    "vacuum_cleaner": "/m/0d31p",  # Vacuum cleaner
    "clock_alarm": "/m/046dlr",  # Alarm clock
    "clock_tick": "/m/07qjznt",  # Tick
    "glass_breaking": "/m/07rn7sz",  # Shatter
    "helicopter": "/m/09ct_",  # Helicopter
    "chainsaw": "/m/01j4z9",  # Chainsaw
    "siren": "/m/03kmc9",  # Siren
    "car_horn": "/m/0912c9",  # Vehicle horn, car horn, honking
    "engine": "/m/02mk9",  # Engine
    "train": "/m/07jdr",  # Train
    "church_bells": "/m/03w41f",  # Church bell
    "airplane": "/m/0cmf2",  # Fixed-wing aircraft, airplane
    "fireworks": "/m/0g6b5",  # Fireworks
    "hand_saw": "/m/01b82r",  # Sawing
}
"""The AudioSet class id of each category that has one."""

NO_CLASS: frozenset[str] = frozenset({"drinking_sipping", "can_opening", "washing_machine"})
"""The categories that none of the 527 classes is made for."""
