"""The policy, whatever its family: prompts encoded, batches laid out, weights named.

Keye-VL-1.5 brings its own encoder and packed layout (`pretrain.keye_vl`). Any other causal language
model or vision-language model that transformers and vLLM both know goes through transformers'
interfaces: its own processor, right-padded rows, its own checkpoint names.
"""
