"""The models of the synthesised events, a file for each family: tones, struck things, noises, animals."""
