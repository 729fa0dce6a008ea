"""What dense models are made of: stem, blocks, head, and the state between them."""
