"""Where do long reasoning traces come from? The LongCoT cold start in five steps.

(a) `enhance` collects questions, (b) `paths` samples reasoning with confidences, (c) `assess`
grades it A, B or C, (d) `review` hands doubtful traces to people, (e) `score` says what a question
needs; then `long_cot_sft` trains on the result. Run it with ``python -m rl recipe=long_cot``.
"""
