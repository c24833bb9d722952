"""Fine-tuning: adapters by recipe, merged into plain folders, and runs of other tools read into the same shape."""
