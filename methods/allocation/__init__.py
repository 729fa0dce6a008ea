"""Compute allocation: how much of the network each token or sample gets.

allocation          a = sigmoid(W2 relu(W1 x)) opens or closes each block
keyword_allocation  keywords run every block, other tokens a share of them
act                 a shared block runs until a token's halting probabilities add up to one
recursions          a router decides how often a group of shared blocks runs on a token
"""
