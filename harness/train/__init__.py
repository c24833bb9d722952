"""Fine-tuning: what a claim about a tuned model needs to make that model again."""
