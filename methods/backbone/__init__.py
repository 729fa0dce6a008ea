"""Dense model families, one file each: a dataclass of sizes whose `build` returns a trunk.

    transformer    encoder, decoder and encoder-decoder (ViT, GPT-2, Llama, the first transformer)
    resnet         residual networks for small and large images
    res15          a small dilated residual network for keyword spotting
    mobilenet      MobileNet V1 and V2
    efficientnet   EfficientNet-B0
    msdnet         multi-scale dense networks, built for early exits

A further family is one file here; building blocks that families share go to `methods.trunk`. Named
sizes are YAML files under conf/backbone.
"""
