"""Training tasks: supervised contrastive pre-training and fine-tuning."""
