"""Networks that are not timm's: the perceptron, those for texts, and the user's own out of plugin files.

Each is an `nn.Module` that maps a batch of inputs to (logits [B, K], embedding [B, D], stages), as
`kdbench.method.Outputs` describes them, and whose `classifier` maps the embedding to the logits. What builds it takes
the number of classes and the shape of an input, then by name whatever `kwargs` an `Architecture` has.
"""
