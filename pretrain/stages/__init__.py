"""The pre-training stages: vit, text, align, multitask, anneal and fuse."""
