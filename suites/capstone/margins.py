"""How hard the defences of this suite are shaken; fixed before any is run."""

NOISE = 6  # answers that change either way: what R3 of the small repository allows is thirty of its three hundred
LOSS = 12  # answers lost, all of them one way: no more than a fifth of what R3 would allow as flips
