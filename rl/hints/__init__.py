"""Writing hints L1…L5 for data; asking with them is the rollouts' (`rollout.hints`)."""
