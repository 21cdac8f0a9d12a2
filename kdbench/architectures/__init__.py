"""Networks that are not from timm: a perceptron, networks for texts, and the user's own networks from plugin files.

Each is an `nn.Module` that maps a batch of inputs to (logits [B, K], embedding [B, D], stages), as
`kdbench.method.Outputs` describes them, and whose `classifier` maps the embedding to the logits. The class or function
that builds it takes the number of classes and the shape of an input, and the `kwargs` of an `Architecture` by name.
"""
