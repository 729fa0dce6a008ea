"""Mixtures of experts: many feed-forward layers, of which a token runs few.

    moe             token choice: each token picks its k best experts
    deepseek_moe    fine-grained and shared experts, balanced by a bias
    expert_choice   each expert picks its tokens
    soft_moe        experts on weighted means of tokens: nothing is skipped

A further way of routing tokens to experts is one file here; routers, stacked experts and dispatch
come from `methods.parts`.
"""
