"""Training and measuring the Keye reward model; at work it is `rewards.keye_rm`."""
