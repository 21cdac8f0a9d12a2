"""The few words of the reference that no declaration has: of families, and of keys and fields whose names say nearly
all. Of what is described in kdbench itself nothing stands here; a test holds it to that."""

FAMILY_IDEAS = {
    "baseline": "Controls that learn from no teacher: every other method is compared with them.",
    "logit": "The student learns from the teacher's outputs alone: its class probabilities, or its logits.",
    "feature": "The student learns to reproduce feature maps inside the teacher.",
    "attention": "The student learns where in the image, or in which of its layers, the teacher looks.",
    "relation": "The student learns how the teacher relates images, or layers, to each other.",
    "self": "The student learns from itself, or from a network of its own kind: no larger teacher is needed.",
    "online": "Several networks are trained at once and teach each other.",
    "adversarial": "An adversary takes part: a discriminator, or an attack on the images.",
    "data_free": "The student sees no training image: images are made out of the teacher.",
}

# What the keys of a recipe mean where their declaration has no description: they are the usual ones of training.
RECIPE_KEYS = {
    "epochs": "passes over the training images",
    "batch_size": "images in a step; the last, smaller batch of an epoch is left out",
    "optimizer": "`sgd` with momentum, or `adamw`",
    "lr": "the learning rate before its schedule",
    "momentum": "of `sgd`",
    "nesterov": "whether `sgd` takes Nesterov's momentum",
    "weight_decay": "of all parameters that are trained",
    "schedule": "how the rate falls: to zero along half a `cosine` or a `linear` ramp, or in `step`s at the milestones",
    "gamma": "what `step` multiplies the rate by",
    "augment": "of the training images: `crop` from images that are padded by an eighth, horizontal `flip`, "
               "`random_resized_crop`",
    "normalise": "mean and deviation of the pixels: of the training split, or those of ImageNet, in three channels",
    "precision": "of the forward passes; weights are float32",
    "model": "the name of a timm model, of one of kdbench's own (`resnet_cifar`, `mlp`, `text_bag`, "
             "`text_transformer`), or MODULE:FUNCTION of a file given by `--plugin`",
    "kwargs": "further arguments of `timm.create_model`, of those that shape a network",
    "source": "of a network of your own (MODULE:FUNCTION), the SHA-256 of its file, which a run adds",
    "weights": "`train`: kdbench trains the teacher; `hub:TAG`: timm's published weights; `file:PATH`: a file; "
               "`train:hub:TAG`, `train:file:PATH`: it is trained on from there",
}
SUITE_KEYS = {
    "description": "what the suite is for, in a line",
    "methods": "`all`, or a list of names",
    "pairs": "names of built-in pairs or of the suite's own",
    "datasets": "names of datasets, with modifiers if there are any",
    "recipe": "what all runs share; its keys stand below",
}
# The fields of records and specs that need no comment where they are declared.
RECORD_FIELDS = {
    "suite": "the name of the suite that it was run for",
    "spec": "what was run; see `RunSpec`",
    "schema_version": "of this format",
    "run_id": "what the file is named by",
    "status": "how the run ended.",
    "started": "date and time in UTC",
    "finished": "date and time in UTC",
    "role": "what the run was for.",
    "peak_memory_bytes": "highest memory of the run's process; on a GPU, allocated device memory",
    "weights_sha256": "of the network's file",
    "predictions_sha256": "of the predictions' file",
    "subject": "what was measured.",
    "energy_source": "where the energy was read.",
    "reference_step_seconds": "over passes, of the reference's steps in turns with these",
    "latency_p95_seconds": "of one image: what 95 of 100 calls keep",
    "student": "the pair's student, or what the method deploys",
    "teacher": "the pair's teacher",
    "parameters": "their number",
    "file_bytes": "of the safetensors file",
    "joules_per_1000_images": "at batch 64; none without an energy counter",
    "low": "the lower quartile", "median": "the median", "high": "the upper quartile", "count": "how many repeats",
}
SPEC_FIELDS = {
    "protocol": "raised whenever the engine changes what a spec results in",
    "method": "its name",
    "hyperparameters": "all of the method's, those at their defaults too",
    "student": "the network that is trained",
    "dataset": "its name, with modifiers",
    "recipe": "what the methods of its cell share",
    "seed": "of the run's random streams",
    "device": "what it trains on.",
    "lr": "instead of the recipe's", "weight_decay": "instead of the recipe's",
    "kind": "tells the kinds of teachers apart",
    "run": "the run that trains it",
    "architecture": "of the network",
    "tag": "of the weights",
    "path": "of the file; it does not enter the id",
    "sha256": "of the file",
}
PAIR_KEYS = {"description": "in a line", "teacher": "the network that teaches; its keys stand below",
             "student": "the network that learns: `model` and `kwargs`",
             "assistant": "a network between the two, which the teacher trains for methods that learn from one"}
