"""What vLLM's in-place weight reload leaves undone."""

from __future__ import annotations

from typing import Any


def refresh_tied_output(worker: Any) -> int:
    """Renew the output layer's packed copy of weights that it shares with the embedding.

    A checkpoint with tied embeddings has no `lm_head.weight`, so a reload (vLLM 0.32) writes the
    embedding and passes over the output layer. On CPU that layer multiplies with a prepacked copy
    of the matrix, which then still holds the old weights: logits of new hidden states and old
    outputs, off by 0.1 and more without any error. Returns the number of layers renewed.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import (
        ParallelLMHead,
        VocabParallelEmbedding,
    )

    modules = list(worker.model_runner.get_model().modules())
    embeddings = {
        module.weight.data_ptr()
        for module in modules
        if isinstance(module, VocabParallelEmbedding) and not isinstance(module, ParallelLMHead)
    }
    tied = [
        module
        for module in modules
        if isinstance(module, ParallelLMHead) and module.weight.data_ptr() in embeddings
    ]
    for module in tied:
        module.quant_method.process_weights_after_loading(module)
    return len(tied)
