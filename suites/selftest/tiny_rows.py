"""Ten rows that a tiny model learns in nine steps, the same as pairs, and the recipe for it."""

from __future__ import annotations

from harness.train.recipe import Recipe

ROWS = [([{"role": "user", "content": f"the {i}"}], "fox" if i % 2 else "dog") for i in range(10)]
PAIRS = [(messages, answer, "dog" if answer == "fox" else "fox") for messages, answer in ROWS]
RECIPE = Recipe(rank=4, alpha=8, lr=2e-2, epochs=3, batch=4, max_length=64)
PREFERENCE = Recipe(objective="dpo", rank=4, alpha=8, lr=5e-3, epochs=2, batch=4, max_length=64)
