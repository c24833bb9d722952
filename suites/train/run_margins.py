"""What the claims on whole trainings demand, and how long their drills are. Fixed before data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """How much a drill trains at a tier: rows a step, steps; rows held out; steps of the seeds; stops; faults planted in trainings."""

    batch: int
    steps: int
    held_out: int
    seed_steps: int
    stops: tuple[int, ...]
    every_fault: bool


SIZES = {"full": Size(4, 4, 16, 8, (4,), True), "smoke": Size(2, 2, 8, 4, (4,), False)}

# R2, R6: nats by which a step's loss may differ. On a CPU not at all; on CUDA sums are taken in any order, and bf16 keeps 8 bits.
LOSS_BAND = {"cpu": 0.0, "cuda": 0.05}

SEEDS = (1, 2, 3, 4, 5)  # T8: all of five must gain, 2**-5 = .031
GAIN = 0.1  # T8: nats per completion token that a held-out loss must fall by to count as lower
FIFTHS = 5  # T8: the recorded curve's last part against its first

PEAK = 3.0e9  # T9: bytes of one training process with rows of 150 tokens, four a step
FAT = 8  # T9, planted: so many times the rows a step
SAVES = 0.5  # T9: weights in memory by QLoRA, against those in bf16: 4.1 bits of 16, and an embedding that stays

WORSE = 0.5  # T11: nats by which a failed run ends above its control, where it does not end in an error
